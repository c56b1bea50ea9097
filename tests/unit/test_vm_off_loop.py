"""Work on threads for those who may be cancelled: its descriptors stay theirs until it has ended."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from backends.qemu.off_loop import on_thread


def test_who_is_cancelled_waits_for_the_thread_and_drops_its_answer() -> None:
    let_go, ended = threading.Event(), threading.Event()

    def work() -> int:
        let_go.wait(10)
        ended.set()
        return os.open(os.devnull, os.O_RDONLY)

    async def main() -> None:
        dropped: list[int] = []
        task = asyncio.ensure_future(on_thread(work, drop=dropped.append))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done(), "what it works with is not free to be closed"
        let_go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()
        [descriptor] = dropped
        os.close(descriptor)

    asyncio.run(main())
