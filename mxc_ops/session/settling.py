"""A sandbox whose end is over: nothing of its run is kept, and it may be started again (effectful).

What became of its copies of the host's files goes between supervisor, journal and caller as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.ended import Conflict
from backends.frozen import replace
from backends.sessions import Settled
from mxc_ops.session.record import State
from mxc_ops.session.transition import Transition

__all__ = ["settle", "settled_from", "settled_told"]

_MOST_NOTED = 100


def settle(moving: Transition, settled: Settled | None = None, *, ended: str = "") -> None:
    """Provisioned again; the journal has what became of copies, and how it `ended` if the phase does not say.

    Raises what `Transition.save` raises.
    """
    moving.remove_run_folder()
    record = replace(moving.record, state=State.PROVISIONED, supervisor_pid=0, run_folder="")
    moving.save(record, {**_noted(settled or Settled()), **({"ended": ended} if ended else {})})


def settled_told(settled: Settled) -> dict[str, Any]:
    """JSON-safe; as in results of runs."""
    return {
        "conflicts": [
            {"path": conflict.path, "keptAs": conflict.kept_as, "pointer": conflict.pointer}
            for conflict in settled.conflicts
        ],
        "warnings": list(settled.warnings),
    }


def settled_from(told: Mapping[str, Any]) -> Settled:
    """What `settled_told` told. Raises `KeyError`, `TypeError` for anything else."""
    conflicts = (Conflict(one["path"], one["keptAs"], one["pointer"]) for one in told["conflicts"])
    return Settled(tuple(conflicts), tuple(told["warnings"]))


def _noted(settled: Settled) -> dict[str, Any]:
    """As much of it as a line of the journal takes; "more" counts the rest."""
    told = {name: found for name, found in settled_told(settled).items() if found}
    more = sum(max(0, len(found) - _MOST_NOTED) for found in told.values())
    noted: dict[str, Any] = {name: found[:_MOST_NOTED] for name, found in told.items()}
    return {**noted, "more": more} if more else noted
