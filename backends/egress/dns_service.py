"""The sandbox's nameserver: it knows the names that may be reached, and no others."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import dns.rcode
import dns.rdatatype

from backends.egress.bounds import DNS_IN_FLIGHT, FIRST_MESSAGE_S
from backends.egress.datagrams import Datagrams
from backends.egress.dns_messages import (
    LONGEST_QUERY,
    Query,
    Reply,
    addresses_of_kind,
    answer,
    read_query,
    refusal,
)
from backends.egress.gate import Gate
from backends.egress.names import canonical
from backends.egress.passages import Connection

__all__ = ["DnsService"]

_ADDRESS_TYPES = (dns.rdatatype.A, dns.rdatatype.AAAA)


class DnsService:
    """Answers by UDP and TCP. At most `DNS_IN_FLIGHT` queries are worked on; more are dropped."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0

    def listen(self, sock: socket.socket) -> Datagrams:
        """Serve a UDP socket."""

        def handle(data: bytes, sender: Any) -> None:
            if len(self._tasks) < DNS_IN_FLIGHT:
                task = asyncio.get_running_loop().create_task(self._serve_datagram(datagrams, data, sender))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        datagrams = Datagrams(sock, handle)
        return datagrams

    async def serve(self, connection: Connection) -> None:
        """Serve a TCP connection: messages with their length before them (RFC 1035 4.2.2).

        Raises OSError (TimeoutError included) when it is over.
        """
        stream = connection.stream
        while True:
            async with asyncio.timeout(FIRST_MESSAGE_S):
                size = int.from_bytes(await stream.exactly(2), "big")
                wire = await stream.exactly(size) if 0 < size <= LONGEST_QUERY else b""
            if not wire or len(wire) < size:
                return
            reply = await self._answer(wire, over_tcp=True)
            if reply is None:
                return
            async with asyncio.timeout(FIRST_MESSAGE_S):
                await stream.send(len(reply).to_bytes(2, "big") + reply)

    async def _serve_datagram(self, datagrams: Datagrams, wire: bytes, sender: Any) -> None:
        reply = await self._answer(wire, over_tcp=False)
        if reply is not None:
            datagrams.send(reply, sender)

    async def _answer(self, wire: bytes, *, over_tcp: bool) -> bytes | None:
        query = read_query(wire)
        if not isinstance(query, Query):
            return query.wire if isinstance(query, Reply) else None
        if self._in_flight >= DNS_IN_FLIGHT:
            return None
        self._in_flight += 1
        try:
            return await self._look_up(query, over_tcp=over_tcp)
        finally:
            self._in_flight -= 1

    async def _look_up(self, query: Query, *, over_tcp: bool) -> bytes:
        gate = self._gate
        decision = gate.names.decide(query.name, None)
        name = canonical(query.name) or query.name
        if not decision.allowed:
            gate.events.write_name("denied", name, rule=decision.rule, reason=decision.reason)
            return refusal(query, dns.rcode.NXDOMAIN)
        if query.kind not in _ADDRESS_TYPES:
            return answer(query, (), 0, over_tcp=over_tcp)
        found = await gate.resolver.lookup(name)
        if found.failure:
            known = found.failure == "name_not_found"
            return refusal(query, dns.rcode.NXDOMAIN if known else dns.rcode.SERVFAIL)
        good: list[str] = []
        for address in found.addresses:
            checked = gate.check_look_up(name, address)
            if checked.allowed:
                good.append(address)
            else:
                rule = checked.rule or decision.rule
                gate.events.write_name("denied", name, address=address, rule=rule, reason=checked.reason)
        return answer(query, addresses_of_kind(good, query.kind), found.ttl, over_tcp=over_tcp)
