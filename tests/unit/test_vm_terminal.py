"""The caller's terminal while a machine's command has one of its own."""

from __future__ import annotations

import asyncio
import os
import pty
from typing import cast

from backends.agent.process import GuestProcess
from backends.vm.terminal import follow_size


class NeverResized:
    def resize(self, rows: int, columns: int) -> None:
        raise AssertionError(f"nobody asked for {rows} by {columns}")


def test_a_terminal_that_is_closed_is_no_longer_looked_at() -> None:
    """What fails here would take the place of the command's end, and its files would not be copied back."""
    master, slave = pty.openpty()

    async def main() -> None:
        following = asyncio.ensure_future(follow_size(slave, cast("GuestProcess", NeverResized())))
        await asyncio.sleep(0)
        os.close(master)
        await following

    try:
        asyncio.run(asyncio.wait_for(main(), 10))
    finally:
        os.close(slave)
