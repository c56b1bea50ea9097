"""HTTP/1.1 that tells what it was asked, plain or under TLS, and a board on which both sides leave notes.

``/big/N`` has N bytes that only N decides; ``/say/KEY/VALUE`` leaves a note, ``/wait/KEY`` has one, later.
Anything else is answered with what was asked: method, target, host, headers, the body's size and digest, the
addresses of the connection, the name under which TLS was asked for, and the number of requests before it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from asyncio import StreamReader, StreamWriter
from typing import Any

__all__ = ["Board", "big", "serve_http"]

_HEAD = "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nContent-Type: {}\r\n\r\n"


class Board:
    """Notes by key, each of which is read once."""

    def __init__(self) -> None:
        self._notes: dict[str, asyncio.Future[str]] = {}

    def _note(self, key: str) -> asyncio.Future[str]:
        return self._notes.setdefault(key, asyncio.get_running_loop().create_future())

    def leave(self, key: str, value: str) -> None:
        self._note(key).set_result(value)

    async def take(self, key: str) -> str:
        value = await self._note(key)
        self._notes.pop(key, None)
        return value


def big(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def serve_http(board: Board, reader: StreamReader, writer: StreamWriter) -> None:
    """All requests of one connection."""
    before = 0
    while True:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        except asyncio.IncompleteReadError:
            return
        method, target, _ = head[0].split(" ", 2)
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])
        }
        body = await _body(reader, headers)
        kind = "application/json"
        if target.startswith("/big/"):
            answer, kind = big(int(target.rpartition("/")[2])), "application/octet-stream"
        elif target.startswith("/say/"):
            board.leave(*target.split("/")[2:4])
            answer = b"{}"
        elif target.startswith("/wait/"):
            answer = json.dumps({"told": await board.take(target.rpartition("/")[2])}).encode()
        else:
            told = _told(writer) | {"method": method, "target": target, "headers": headers, "before": before}
            told |= {"size": len(body), "digest": hashlib.sha256(body).hexdigest()}
            answer = json.dumps(told).encode()
        writer.write(_HEAD.format(len(answer), kind).encode() + (b"" if method == "HEAD" else answer))
        await writer.drain()
        before += 1
        if headers.get("connection", "").lower() == "close":
            return


async def _body(reader: StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def _told(writer: StreamWriter) -> dict[str, Any]:
    tls = writer.get_extra_info("ssl_object")
    return {
        "reached": writer.get_extra_info("sockname")[:2],
        "from": writer.get_extra_info("peername")[:2],
        "sni": None if tls is None else getattr(tls, "asked_for", None),
    }
