"""What blocks, on a loop that must not (asyncio).

A thread cannot be cancelled, and it uses descriptors of whoever started it. So whoever is cancelled waits for
its end before they are closed: else it would go on with whatever gets their numbers next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["off_loop", "on_thread"]

_Answer = TypeVar("_Answer")


async def on_thread(
    work: Callable[[], _Answer], *, drop: Callable[[_Answer], object] | None = None
) -> _Answer:
    """Do `work` on a worker thread; returns or raises what it does, and never before it has ended.

    Parameters
    ----------
    drop: what to do, on such a thread as well, with an answer that nobody takes, because we were cancelled
        meanwhile.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _outlast(task)
        if drop is not None and task.exception() is None:
            await _outlast(asyncio.ensure_future(asyncio.to_thread(drop, task.result())))
        raise


async def _outlast(task: asyncio.Future[Any]) -> None:
    """Wait for its end, however often we are cancelled meanwhile."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})


async def off_loop(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks, each of them fetched on a worker thread."""
    while (chunk := await on_thread(lambda: next(chunks, None))) is not None:
        yield chunk
