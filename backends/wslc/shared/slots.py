"""The disks of a shared machine, whose files are exchanged while it runs (effectful, asyncio).

A disk of QEMU is a node of its block layer upon another one, for the file; ``blockdev-reopen`` puts another
file's beneath it (qemu: qapi/block-core.json). So nothing is copied. The guest's device keeps the size that
it began with; a container's agent forgets what was read of it before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress

from backends.errors import LaunchFailed, Problem
from backends.qemu.memory_file import sparse_file
from backends.qemu.running_machine import RunningMachine
from backends.wslc.shared.plan import DISKS, GRANT_SLOTS, ROOT_SLOTS

__all__ = ["Slots"]

_NOTHING = "nothing"
_SIZES = {disk.name: disk.size_bytes for disk in DISKS}


class Slots:
    """Of one machine. Disks are named as in its template; whoever plugs one unplugs it."""

    def __init__(self, machine: RunningMachine) -> None:
        self._machine = machine
        self._changing = asyncio.Lock()
        self._last = 0
        self._nodes: dict[str, str] = {}
        self._roots: dict[tuple[int, int], tuple[str, int]] = {}
        """Device and inode of an image → the disk that it is on, and for how many."""

    async def open(self) -> None:
        """What lies behind disks that nobody has. Raises `LaunchFailed`."""
        nothing = sparse_file(_NOTHING, max(_SIZES.values()))
        try:
            await self._add(_NOTHING, nothing)
        finally:
            os.close(nothing)

    async def plug_root(self, file: int) -> str:
        """The disk with this image, which those who have the same one share. Raises `LaunchFailed`."""
        status = os.fstat(file)
        image = status.st_dev, status.st_ino
        async with self._changing:
            disk, users = self._roots.get(image, ("", 0))
            if not users:
                disk = await self._plug(ROOT_SLOTS, file)
            self._roots[image] = disk, users + 1
            return disk

    async def unplug_root(self, disk: str) -> None:
        async with self._changing:
            image = next(image for image, (name, _) in self._roots.items() if name == disk)
            users = self._roots[image][1] - 1
            if users:
                self._roots[image] = disk, users
            else:
                await self._unplug(disk)
                del self._roots[image]

    async def plug_grants(self, file: int) -> str:
        """A disk of its own with these. Raises `LaunchFailed`."""
        async with self._changing:
            return await self._plug(GRANT_SLOTS, file)

    async def unplug_grants(self, disk: str) -> None:
        async with self._changing:
            await self._unplug(disk)

    async def _plug(self, disks: Sequence[str], file: int) -> str:
        disk = next(name for name in disks if name not in self._nodes)
        if (size := os.fstat(file).st_size) > _SIZES[disk]:
            message = f"a file of {size} bytes is more than the disk {disk!r} holds"
            raise LaunchFailed(Problem("disk_size", "", message))
        self._last += 1
        node = f"content{self._last}"
        await self._add(node, file)
        try:
            await self._put(disk, node)
        except BaseException:
            with suppress(LaunchFailed):
                await self._machine.execute("blockdev-del", {"node-name": node})
            raise
        self._nodes[disk] = node
        return disk

    async def _unplug(self, disk: str) -> None:
        await self._put(disk, _NOTHING)
        await self._machine.execute("blockdev-del", {"node-name": self._nodes[disk]})
        del self._nodes[disk]

    async def _add(self, node: str, file: int) -> None:
        number = self._last
        readable = os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            await self._machine.hand_over_file(readable, number)
        finally:
            os.close(readable)
        driver = {"driver": "file", "filename": f"/dev/fdset/{number}", "locking": "off"}
        try:
            await self._machine.execute("blockdev-add", {**driver, **_options(node)})
        finally:
            with suppress(LaunchFailed):  # the node has its own by now
                await self._machine.execute("remove-fd", {"fdset-id": number})

    async def _put(self, disk: str, node: str) -> None:
        """What is not said again of a node goes back to its default."""
        raw = {"driver": "raw", "file": node, **_options(disk)}
        await self._machine.execute("blockdev-reopen", {"options": [raw]})


def _options(node: str) -> dict[str, object]:
    return {"node-name": node, "read-only": True, "cache": {"no-flush": True}}
