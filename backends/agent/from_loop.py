"""A download in the hands of a thread that may wait for it; its connection stays on the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from backends.agent.errors import GuestSilent
from backends.agent.files import Download

__all__ = ["LEAST_BYTES_S", "PATIENCE_S", "from_loop"]

PATIENCE_S = 60.0
LEAST_BYTES_S = 256 << 10
"""A guest that sends more slowly than this, over and above `PATIENCE_S`, is given up: nobody else ends what
drips for ever. Only the time that we waited for it counts."""


def from_loop(download: Download, loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
    """The chunks, for any thread but the loop's own. Raises what `Download` does; `GuestSilent` for drips."""
    source = aiter(download)
    waited_s, taken = 0.0, 0

    async def fetch() -> bytes | None:
        return await anext(source, None)

    while True:
        asked = time.monotonic()
        chunk = asyncio.run_coroutine_threadsafe(fetch(), loop).result()
        waited_s += time.monotonic() - asked
        if chunk is None:
            return
        taken += len(chunk)
        if waited_s > PATIENCE_S + taken / LEAST_BYTES_S:
            raise GuestSilent(f"GET with more than {taken} bytes", waited_s)
        yield bytes(chunk)
