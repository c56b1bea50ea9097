"""A machine's devices as bytes, its memory left in its own file: what a copy of it starts from (asyncio)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from backends.errors import LaunchFailed, Problem
from backends.qemu.running_machine import RunningMachine

__all__ = ["ignore_shared", "save_state", "saved_state"]

_SNAPSHOT_S = 30.0
_POLL_S = 0.005
_UNLIMITED = 1 << 40  # bytes per second


def ignore_shared(state: bool) -> Mapping[str, object]:
    """Whether memory that is a shared file is left out of the state (QEMU: migration.json)."""
    return {"capabilities": [{"capability": "x-ignore-shared", "state": state}]}


async def save_state(machine: RunningMachine, state: int, *, with_memory: bool = False) -> None:
    """Write it into the descriptor. The machine stands still afterwards.

    Parameters
    ----------
    with_memory: also the memory, of a machine that has it to itself.

    Raises `LaunchFailed` when QEMU does not complete it.
    """
    await machine.execute("migrate-set-capabilities", ignore_shared(not with_memory))
    if with_memory:
        await machine.execute("migrate-set-parameters", {"max-bandwidth": _UNLIMITED})
    await machine.hand_over(state, "state")
    await machine.execute("migrate", {"uri": "fd:state"})
    loop = asyncio.get_running_loop()
    until = loop.time() + _SNAPSHOT_S
    while (progress := await machine.execute("query-migrate"))["status"] != "completed":
        if progress["status"] == "failed" or loop.time() > until:
            raise LaunchFailed(
                Problem("snapshot_failed", "", f"QEMU's snapshot did not complete: {progress}")
            )
        await asyncio.sleep(_POLL_S)


async def saved_state(machine: RunningMachine, *, with_memory: bool = False) -> bytes:
    """The same, as bytes."""
    state = os.memfd_create("machine-state", os.MFD_CLOEXEC)
    try:
        await save_state(machine, state, with_memory=with_memory)
        return os.pread(state, os.fstat(state).st_size, 0)
    finally:
        os.close(state)
