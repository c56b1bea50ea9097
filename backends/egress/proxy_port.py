"""The port that clients know for a proxy: HTTP and SOCKS5, told apart by their first byte."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from backends.egress.gate import Gate
from backends.egress.http_service import HttpService
from backends.egress.passages import Connection, Passage, Refused
from backends.egress.socks import VERSION_4, VERSION_5, serve_socks
from backends.egress.tunnels import serve_tunnel

__all__ = ["serve_proxy"]


async def serve_proxy(gate: Gate, connection: Connection) -> None:
    """Serve one client. Raises `Refused`."""
    first = await connection.begins_with(Passage(connection.number, "connect"))
    if not first:
        return
    if first[0] == VERSION_5:
        await serve_socks(gate, connection)
    elif first[0] == VERSION_4:
        raise Refused(Passage(connection.number, "socks5"), "socks4")
    else:

        async def tunnel(passage: Passage, reply: Callable[[Refused | None], Awaitable[None]]) -> None:
            await serve_tunnel(gate, connection, passage, reply)

        await HttpService(gate, connection, None, tunnel).serve()
