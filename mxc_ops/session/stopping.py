"""The end of a sandbox's run: its supervisor is asked for it, and killed when it does not obey (blocking)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress

from backends.errors import CopyBackFailed, LaunchFailed, Problem
from backends.frozen import frozen, replace
from backends.sessions import Settled
from mxc_ops.session.control import Control
from mxc_ops.session.entry import Entry
from mxc_ops.session.record import Record, State
from mxc_ops.session.settling import settle, settled_from
from mxc_ops.session.states import Shown
from mxc_ops.session.transition import Transition

__all__ = ["Stopped", "stop", "what_is_lost"]

_SILENT_S = 30.0
_ENDS_S = 30.0
_KILL_S = 10.0
_MOMENT_S = 0.005
_COPIES = ("microvm", "vm")


@frozen
class Stopped:
    """A sandbox after its stop, and what became of its copies of the host's files."""

    entry: Entry
    settled: Settled


def stop(entry: Entry, moving: Transition, *, discard: bool) -> Settled:
    """End what runs; the sandbox is provisioned again.

    Parameters
    ----------
    discard: what it changed in copies of read-write grants is not brought back.

    Raises `CopyBackFailed` when it cannot be brought back: then the sandbox still runs (but nothing in it).
    Raises `LaunchFailed` when its supervisor cannot be ended.
    """
    settled = Settled()
    before = moving.record.state
    if moving.shown is Shown.RUNNING:
        moving.save(replace(moving.record, state=State.STOPPING))
        try:
            with Control(moving.record.run_folder) as control:
                settled = settled_from(control.ask("stop", timeout_s=_SILENT_S, discard=discard))
        except CopyBackFailed as error:
            moving.save(replace(moving.record, state=State.RUNNING))
            raise _goes_on(entry, error) from error
        except (OSError, LaunchFailed):
            settled = settled if discard else what_is_lost(replace(moving.record, state=before))
        _await_end(entry)
    elif not discard:
        settled = what_is_lost(moving.record)
    settle(moving, settled)
    return settled


def _goes_on(entry: Entry, error: CopyBackFailed) -> CopyBackFailed:
    fix = f"mxc-ops session stop --discard {entry.id}"
    message = f"{entry.id} was not stopped: what it changed would be lost"
    return CopyBackFailed([*error.problems, Problem("not_stopped", "", message, fix=fix)], retryable=True)


def what_is_lost(record: Record) -> Settled:
    """With a supervisor that answers no more: what it had not brought back, nobody can."""
    filesystem: Mapping[str, object] = record.document.get("filesystem") or {}
    ran = record.state in (State.RUNNING, State.STOPPING)
    if not ran or record.containment not in _COPIES or not filesystem.get("readwritePaths"):
        return Settled()
    return Settled(
        warnings=("its supervisor was gone: what was changed in copies of read-write grants is lost",)
    )


def _await_end(entry: Entry) -> None:
    """Its lock tells that it is gone; one that does not go is killed, and takes its sandbox along.

    One that has not begun to listen yet finds that nobody waits for it any more, and ends by itself.
    """
    if _released(entry, _ENDS_S):
        return
    _kill_supervisor(entry)
    if not _released(entry, _KILL_S):
        raise LaunchFailed(
            Problem("supervisor_stays", "", f"the supervisor of {entry.id} does not end"), retryable=True
        )


def _kill_supervisor(entry: Entry) -> None:
    """Held before it is looked at once more: its number may be another's by now."""
    if (holder := entry.supervisor()) is None:
        return
    with suppress(ProcessLookupError):
        process = os.pidfd_open(holder[0])
        try:
            if entry.supervisor() == holder:
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)


def _released(entry: Entry, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while entry.is_held():
        if time.monotonic() > deadline:
            return False
        time.sleep(_MOMENT_S)
    return True
