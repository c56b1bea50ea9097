"""Connections whose content is not ours to read: to the name that was asked for, or that the hello names."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

from backends.egress.bounds import IDLE_S
from backends.egress.client_hello import ClientHello, HelloState, parse
from backends.egress.gate import Gate
from backends.egress.http_service import HttpService, Inside
from backends.egress.names import canonical
from backends.egress.passages import Connection, Passage, Refused
from backends.egress.pump import Pump
from backends.network.policy import Inspection

__all__ = ["Reply", "carry", "read_hello", "serve_tunnel"]

Reply = Callable[[Refused | None], Awaitable[None]]
"""Tells the client that its tunnel is there (None), or why it is not."""


async def serve_tunnel(gate: Gate, connection: Connection, passage: Passage, reply: Reply) -> None:
    """Serve a client that asked for a tunnel to a name and a port.

    Nothing is connected to before the client has shown, where its rule asks for that, what it speaks and to
    whom. Raises `Refused`, after `reply` where that is still possible.
    """
    upstream: socket.socket | None = None
    try:
        try:
            inspection = gate.admit(connection, passage).inspection
            addresses = await gate.resolve(passage)
            if inspection is Inspection.NONE:
                upstream = await gate.connect(passage, addresses)
        except Refused as refused:
            await reply(refused)
            raise
        await reply(None)
        connection.expect_message()
        if inspection is Inspection.HTTP:
            await HttpService(gate, connection, Inside(passage.port or 0, passage.name)).serve()
            return
        if upstream is None:
            hello = await read_hello(connection, passage)
            if hello.server_name is None:
                raise Refused(passage, "no_sni")
            if canonical(hello.server_name) != passage.name:
                raise Refused(passage, "sni_mismatch")
            upstream = await gate.connect(passage, addresses)
    except BaseException:
        if upstream is not None:
            upstream.close()
            passage.finish(gate.events, "broken", 0, 0)
        raise
    await carry(gate, connection, passage, upstream)


async def read_hello(connection: Connection, passage: Passage) -> ClientHello:
    """The client's hello, which stays in front of the stream. Raises `Refused` where there is none."""
    data = bytearray()
    hello = parse(data)
    try:
        async with asyncio.timeout_at(connection.due):
            while hello.state is HelloState.INCOMPLETE:
                portion = await connection.stream.receive()
                if not portion:
                    raise Refused(passage, "no_hello", denied=False)
                data += portion
                hello = parse(data)
    except TimeoutError:
        raise Refused(passage, "timeout", denied=False) from None
    if hello.state is HelloState.MALFORMED:
        raise Refused(passage, "not_tls")
    connection.stream.unread(bytes(data))
    return hello


async def carry(gate: Gate, connection: Connection, passage: Passage, upstream: socket.socket) -> None:
    """Connect the client and `upstream`, which is closed afterwards, until both have ended."""
    pump: Pump | None = None
    reason = "stopped"
    try:
        pump = Pump(connection.stream.socket, upstream)
        reason = await pump.run(connection.stream.taken_ahead(), IDLE_S)
    except asyncio.CancelledError:
        reason = connection.ended_by or reason
        raise
    finally:
        upstream.close()
        sent, received = (0, 0) if pump is None else (pump.sent, pump.received)
        passage.finish(gate.events, reason, sent, received)
