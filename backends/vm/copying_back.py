"""What a command left in its read-write grants, back onto the host (effectful, asyncio)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator

from backends.agent.errors import GuestError
from backends.agent.from_loop import from_loop
from backends.base import Handles
from backends.errors import CopyBackFailed, Problem
from backends.frozen import replace
from backends.guest_files.copy_back import CopyBack, copy_back, get_request, limits_for
from backends.guest_files.plan import FilesPlan, ShippedGrant
from backends.guest_files.recover import recover
from backends.guest_files.snapshot import Snapshot
from backends.qemu.guest import WithAgent
from backends.qemu.off_loop import on_thread

__all__ = ["bring_back", "journals_folder", "recovered_warnings"]

_MIB = 1 << 20


def journals_folder() -> str:
    """Where copying back notes what is under way: the system's for root, else the user's own."""
    if os.geteuid() == 0:
        return "/var/lib/mxc-ops/copy-back"
    state = os.environ.get("XDG_STATE_HOME", "")
    base = state if state.startswith("/") else os.path.expanduser("~/.local/state")
    return f"{base}/mxc-ops/copy-back"


def recovered_warnings() -> tuple[str, ...]:
    """End what killed processes had begun to copy back; one sentence for each grant of theirs."""
    return tuple(
        f"copying back {found.path}, which was interrupted in an earlier run, was {found.outcome}"
        + (f": {', '.join(found.missing)}" if found.missing else "")
        for found in recover(journals_folder())
    )


async def bring_back(
    guest: WithAgent,
    files: FilesPlan,
    snapshots: dict[int, Snapshot],
    handles: Handles,
    file_size_mib: int | None,
) -> AsyncGenerator[CopyBack]:
    """Copy back the read-write grants that have a snapshot yet, after the command has ended: one by one.

    Whatever the command left running is killed first, so that nothing changes meanwhile. The snapshot of a
    grant that is back is taken from `snapshots`. Raises `CopyBackFailed` naming the grant.
    """
    guest.agent.signal_everything(signal.SIGKILL)
    for grant in files.writable:
        snapshot = snapshots.get(grant.number)
        if snapshot is not None:
            done = await _one(guest, grant, snapshot, handles, file_size_mib)
            del snapshots[grant.number]
            yield replace(done, warnings=(*snapshot.warnings, *done.warnings))


async def _one(
    guest: WithAgent, grant: ShippedGrant, snapshot: Snapshot, handles: Handles, file_size_mib: int | None
) -> CopyBack:
    file_bytes = None if file_size_mib is None else file_size_mib * _MIB
    limits = limits_for(snapshot, file_bytes=file_bytes)
    chunks = from_loop(guest.agent.get(get_request(grant, limits)), asyncio.get_running_loop())
    try:
        # Not under `guard`: that the machine is gone, the thread learns from the connection, which ends then.
        return await on_thread(
            lambda: copy_back(grant, snapshot, handles, chunks, journals=journals_folder(), limits=limits)
        )
    except GuestError as error:
        message = f"{grant.path} could not be copied back: {error}"
        raise CopyBackFailed(Problem("guest_failed", grant.pointer, message)) from error
