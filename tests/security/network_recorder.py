"""A server that keeps whatever it is sent, for tests of what a proxy passes on: run beyond, on every address.

Every head that ends is answered by an empty 200, so that who speaks HTTP goes on.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from contextlib import suppress

from tests.conftest import CHECKOUT
from tests.network.bed import Bed
from tests.network.link import Link

__all__ = ["PORT", "Recorder"]

PORT = 8088
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Recorder:
    """One beyond `bed`, for as long as the bed is."""

    def __init__(self, bed: Bed) -> None:
        command = [sys.executable, "-m", "tests.security.network_recorder"]
        self._link: Link = bed.link(["ip", "netns", "exec", bed.beyond, *command], cwd=CHECKOUT)

    def heard(self) -> list[str]:
        """What came by each connection since the last time, in Latin-1."""
        return self._link.ask("heard")


async def _serve() -> None:
    kept: list[bytearray] = []

    async def take(reader: StreamReader, writer: StreamWriter) -> None:
        mine = bytearray()
        kept.append(mine)
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                before = mine.count(b"\r\n\r\n")
                mine.extend(data)
                writer.write(_ANSWER * (mine.count(b"\r\n\r\n") - before))
        writer.close()

    await asyncio.start_server(take, None, PORT)
    questions = StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: StreamReaderProtocol(questions), sys.stdin)
    print("ready", flush=True)
    async for line in questions:
        told = {"id": json.loads(line)["id"], "value": [bytes(one).decode("latin-1") for one in kept]}
        kept.clear()
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
