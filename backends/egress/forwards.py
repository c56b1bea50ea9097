"""Ports that lead through the boundary to one fixed target, inside or in the host's network.

The targets are the owner's own words, and not what a name leads to: neither names nor `deny` are asked.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from typing import Any

from backends.egress.bounds import CONNECT_S, UDP_IDLE_S, UDP_SESSIONS
from backends.egress.datagrams import Datagrams
from backends.egress.gate import Gate
from backends.egress.passages import Connection, Passage, Refused
from backends.egress.settings import Target
from backends.egress.socket_factory import SocketFactory
from backends.egress.streams import connected
from backends.egress.tunnels import carry

__all__ = ["UdpForward", "reach", "serve_forward"]

_MOST_WAITING = 16


async def reach(target: Target, kind: socket.SocketKind, factory: SocketFactory | None) -> socket.socket:
    """A socket that is connected to `target`. Raises OSError (TimeoutError included)."""
    family = socket.AF_INET6 if ":" in target.host else socket.AF_INET
    if target.inside and factory is not None:
        sock = await factory.make(family, kind)
    else:
        sock = socket.socket(family, kind)
    return await connected(sock, target.host, target.port, CONNECT_S)


async def serve_forward(
    gate: Gate, connection: Connection, target: Target, factory: SocketFactory | None
) -> None:
    """Serve one client of a TCP forward. Raises `Refused` where the target does not answer."""
    passage = connection.passage = _passage(connection.number, target)
    try:
        upstream = await reach(target, socket.SOCK_STREAM, factory)
    except OSError:
        raise Refused(passage, "unreachable", denied=False) from None
    passage.begin(gate.events)
    await carry(gate, connection, passage, upstream)


class _Session:
    """One client of a UDP forward: its own socket to the target, so that answers find their way back."""

    def __init__(self, passage: Passage) -> None:
        self.passage = passage
        self.upstream: Datagrams | None = None
        self.waiting: list[bytes] = []
        self.used = 0.0
        self.sent = self.received = 0
        self.opening: asyncio.Task[None] | None = None


class UdpForward:
    """Serves all clients of one UDP forward. With `UDP_SESSIONS` of them the one silent longest goes."""

    def __init__(
        self, gate: Gate, sock: socket.socket, target: Target, factory: SocketFactory | None
    ) -> None:
        self._gate = gate
        self._target = target
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._sessions: OrderedDict[Any, _Session] = OrderedDict()
        self._datagrams = Datagrams(sock, self._from_client)
        self._timer = self._loop.call_later(UDP_IDLE_S / 4, self._sweep)

    def close(self) -> None:
        self._timer.cancel()
        self._datagrams.close()
        for client in tuple(self._sessions):
            self._end(client, "stopped")

    def _from_client(self, data: bytes, client: Any) -> None:
        session = self._sessions.get(client)
        if session is None:
            if len(self._sessions) >= UDP_SESSIONS:
                self._end(next(iter(self._sessions)), "idle")
            session = self._sessions[client] = _Session(_passage(self._gate.number(), self._target))
            session.opening = self._loop.create_task(self._open(session, client))
        self._use(session, client)
        if session.upstream is not None:
            session.upstream.send(data)
            session.sent += len(data)
        elif len(session.waiting) < _MOST_WAITING:
            session.waiting.append(data)

    async def _open(self, session: _Session, client: Any) -> None:
        try:
            sock = await reach(self._target, socket.SOCK_DGRAM, self._factory)
        except OSError:
            self._end(client, "unreachable")
            return

        def from_target(data: bytes, _: Any) -> None:
            self._use(session, client)
            session.received += len(data)
            self._datagrams.send(data, client)

        session.upstream = Datagrams(sock, from_target)
        session.passage.begin(self._gate.events)
        for data in session.waiting:
            session.upstream.send(data)
            session.sent += len(data)
        session.waiting.clear()

    def _use(self, session: _Session, client: Any) -> None:
        session.used = self._loop.time()
        self._sessions.move_to_end(client)

    def _sweep(self) -> None:
        oldest = self._loop.time() - UDP_IDLE_S
        for client in [each for each, session in self._sessions.items() if session.used < oldest]:
            self._end(client, "idle")
        self._timer = self._loop.call_later(UDP_IDLE_S / 4, self._sweep)

    def _end(self, client: Any, reason: str) -> None:
        session = self._sessions.pop(client)
        if reason == "unreachable":
            session.passage.write(self._gate.events, "closed", reason)
        elif session.opening is not None:
            session.opening.cancel()
        session.passage.finish(self._gate.events, reason, session.sent, session.received)
        if session.upstream is not None:
            session.upstream.close()


def _passage(number: int, target: Target) -> Passage:
    passage = Passage(number, "forward", port=target.port)
    passage.address, passage.rule = target.host, target.rule
    return passage
