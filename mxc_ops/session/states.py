"""Which state a sandbox is in, and which phases it takes there (pure).

A record says what was last written, which is not what is: its supervisor may have been killed, the host
booted anew. The transitions are those of lifecycle.md §1.
"""

from __future__ import annotations

from enum import Enum

from mxc_ops.session.errors import already_started, already_stopped, not_started, stale_id
from mxc_ops.session.record import Record, State

__all__ = ["Shown", "admit", "derive"]


class Shown(Enum):
    """What people and phases are told. `STALE`: it was running, and its supervisor is gone."""

    PROVISIONED = "provisioned"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STALE = "stale"


def derive(record: Record, boot_id: str, *, alive: bool, moving: bool) -> Shown:
    """The state that a sandbox is in.

    One whose starting or stopping was given up, because who did it was killed, runs as long as it lives.

    Parameters
    ----------
    boot_id: the boot that the host is in now.
    alive: a supervisor holds the sandbox.
    moving: another process is in the middle of a transition of it.
    """
    if record.state is State.PROVISIONED:
        return Shown.PROVISIONED
    if alive:
        return Shown(record.state.value) if moving else Shown.RUNNING
    if record.boot_id != boot_id:
        return Shown.PROVISIONED  # what ran ended with that boot
    return Shown(record.state.value) if moving else Shown.STALE


def admit(phase: str, shown: Shown, identifier: str) -> None:
    """Raise the code of a transition that is not allowed; return for one that is.

    Parameters
    ----------
    phase: ``start``, ``exec`` (or anything else that needs it to run), ``stop`` or ``deprovision``.

    A stale sandbox may be started, stopped and deprovisioned: what was left of it goes first. Raises
    `LifecycleError`.
    """
    if phase == "deprovision":
        return
    if phase == "start":
        if shown not in (Shown.PROVISIONED, Shown.STALE):
            raise already_started(identifier)
    elif phase == "stop":
        if shown is Shown.PROVISIONED:
            raise already_stopped(identifier)
    elif shown is Shown.STALE:
        fix = f"mxc-ops session start {identifier}"
        raise stale_id(
            identifier,
            "what ran in it is gone: it, or its supervisor, ended by itself or was killed",
            fix=fix,
        )
    elif shown is not Shown.RUNNING:
        raise not_started(identifier)
