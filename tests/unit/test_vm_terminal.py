"""The caller's terminal while a machine's command has one of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import termios
from typing import cast

from backends.agent.process import GuestProcess
from backends.vm.terminal import follow_size


class Resized:
    """Remembers the sizes that it was told."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []

    def resize(self, rows: int, columns: int) -> None:
        self.sizes.append((rows, columns))


def test_each_size_is_told_once_until_the_terminal_is_closed() -> None:
    """What fails here would take the place of the command's end, and its files would not be copied back."""
    master, slave = pty.openpty()
    told = Resized()

    async def sized(count: int) -> None:
        while len(told.sizes) < count:
            await asyncio.sleep(0.01)

    async def main() -> None:
        following = asyncio.ensure_future(follow_size(slave, cast("GuestProcess", told)))
        await sized(1)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
        await sized(2)
        os.close(master)
        await following

    try:
        asyncio.run(asyncio.wait_for(main(), 10))
    finally:
        os.close(slave)
    assert told.sizes == [(24, 80), (30, 90)]
