"""SOCKS5 (RFC 1928): CONNECT to a domain name, without authentication; nothing else of it."""

from __future__ import annotations

import asyncio

from backends.egress.gate import Gate
from backends.egress.passages import Connection, Passage, Refused
from backends.egress.streams import Stream
from backends.egress.tunnels import serve_tunnel

__all__ = ["VERSION_4", "VERSION_5", "serve_socks"]

VERSION_4, VERSION_5 = 4, 5
_NO_AUTHENTICATION, _NO_METHOD = 0, 0xFF
_CONNECT = 1
_NAME = 3
_ADDRESS_SIZES = {1: 4, 4: 16}
_SUCCEEDED, _FAILURE, _NOT_ALLOWED, _UNREACHABLE, _NO_SUCH_COMMAND, _NO_SUCH_TYPE = 0, 1, 2, 4, 7, 8
_UNREACHABLE_REASONS = ("name_not_found", "lookup_failed", "unreachable")


async def serve_socks(gate: Gate, connection: Connection) -> None:
    """Serve a client whose first byte was 5. Raises `Refused`."""
    stream = connection.stream
    passage = Passage(connection.number, "socks5")

    async def reply(refused: Refused | None) -> None:
        await stream.send(_reply(_SUCCEEDED if refused is None else _code(refused)))

    try:
        async with asyncio.timeout_at(connection.due):
            await _negotiate(stream, passage)
            code = await _read_request(stream, passage)
    except TimeoutError:
        raise Refused(passage, "timeout", denied=False) from None
    if code != _SUCCEEDED:
        await stream.send(_reply(code))
        reason = "address_literal" if code == _NOT_ALLOWED else "request_malformed"
        raise Refused(passage, reason)
    await serve_tunnel(gate, connection, passage, reply)


async def _negotiate(stream: Stream, passage: Passage) -> None:
    greeting = await stream.exactly(2)
    methods = await stream.exactly(greeting[1]) if len(greeting) == 2 else b""
    if _NO_AUTHENTICATION not in methods:
        await stream.send(bytes([VERSION_5, _NO_METHOD]))
        raise Refused(passage, "request_malformed")
    await stream.send(bytes([VERSION_5, _NO_AUTHENTICATION]))


async def _read_request(stream: Stream, passage: Passage) -> int:
    """Fill `passage` with what is asked for; returns the reply's code."""
    head = await stream.exactly(4)
    if len(head) < 4 or head[0] != VERSION_5:
        return _FAILURE
    kind = head[3]
    if kind == _NAME:
        size = (await stream.exactly(1) or b"\0")[0]
    elif kind in _ADDRESS_SIZES:
        size = _ADDRESS_SIZES[kind]
    else:
        return _NO_SUCH_TYPE
    host = await stream.exactly(size)
    port = await stream.exactly(2)
    if len(host) < size or len(port) < 2:
        return _FAILURE
    passage.port = int.from_bytes(port, "big")
    if head[1] != _CONNECT:
        return _NO_SUCH_COMMAND
    if kind != _NAME:
        return _NOT_ALLOWED
    passage.name = host.decode("latin-1")
    return _SUCCEEDED


def _code(refused: Refused) -> int:
    if refused.denied:
        return _NOT_ALLOWED
    return _UNREACHABLE if refused.reason in _UNREACHABLE_REASONS else _FAILURE


def _reply(code: int) -> bytes:
    """With 0.0.0.0:0 for the address bound: the host's own are not the client's business."""
    return bytes([VERSION_5, code, 0, 1, 0, 0, 0, 0, 0, 0])
