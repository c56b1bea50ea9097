"""Iterators that block, on a loop that must not (asyncio)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

__all__ = ["off_loop"]


async def off_loop(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks, each of them fetched on a worker thread."""
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
