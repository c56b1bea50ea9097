"""How a sandbox's last run ended, from what is kept of it (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mxc_ops.session.record import State
from mxc_ops.session.states import Shown
from mxc_ops.session.supervisor_protocol import LEASE_PHASES

__all__ = ["REBOOTED", "how_it_ended"]

REBOOTED = "rebooted"

_BY_PHASE = {
    **{"stop": "stopped", "gc": "crashed", "start": "failed to start"},
    **{phase: phase for phase in LEASE_PHASES.values()},
}


def how_it_ended(state: State, shown: Shown, journal: Sequence[Mapping[str, Any]]) -> str:
    """``stopped``, ``lease-idle``, ``lease-absolute``, ``crashed``, ``rebooted``, ``failed to start``.

    "" for a sandbox that runs, or never did.

    Parameters
    ----------
    state: what its record says.
    shown: the state that it is in.
    journal: its transitions, oldest first.
    """
    if shown is Shown.STALE:
        return "crashed"
    if shown is not Shown.PROVISIONED:
        return ""
    if state is not State.PROVISIONED:
        return REBOOTED
    if not journal:
        return ""
    last = journal[-1]
    return str(last.get("ended") or _BY_PHASE.get(str(last.get("phase")), ""))
