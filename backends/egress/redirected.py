"""Connections that the sandbox made to some address and that nft turned to us: their content names the host.

The address is ignored. It was the client's choice, and a name that may be reached must not open an address
that only the client connects with it.
"""

from __future__ import annotations

import socket

from backends.egress.gate import Gate
from backends.egress.http_requests import Inside
from backends.egress.http_service import HttpService
from backends.egress.passages import Connection, Passage, Refused
from backends.egress.tunnels import carry, read_hello
from backends.network.policy import Inspection

__all__ = ["serve_redirected"]

_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST of linux/netfilter_ipv6/ip6_tables.h
_ADDRESS_SIZE = 28  # of a sockaddr_in6; both kinds have the port in bytes 2 and 3
_TLS_HANDSHAKE = 22


async def serve_redirected(gate: Gate, connection: Connection) -> None:
    """Serve one client. Raises `Refused`."""
    passage = Passage(connection.number, "tls")
    port = passage.port = _original_port(connection.stream.socket)
    if port is None:
        raise Refused(passage, "not_redirected")
    first = await connection.begins_with(passage)
    if not first:
        return
    if first[0] == _TLS_HANDSHAKE:
        await _serve_tls(gate, connection, passage)
    elif first[:1].isalpha():
        await HttpService(gate, connection, Inside(port, None)).serve()
    else:
        raise Refused(passage, "unknown_protocol")


async def _serve_tls(gate: Gate, connection: Connection, passage: Passage) -> None:
    hello = await read_hello(connection, passage)
    if hello.server_name is None:
        raise Refused(passage, "no_sni")
    passage.name = hello.server_name
    if gate.admit(connection, passage).inspection is Inspection.HTTP:
        raise Refused(passage, "not_http")
    addresses = await gate.resolve(passage)
    await carry(gate, connection, passage, await gate.connect(passage, addresses))


def _original_port(sock: socket.socket) -> int | None:
    """The port that the client meant; None: nobody redirected the connection."""
    families = {socket.AF_INET: socket.IPPROTO_IP, socket.AF_INET6: socket.IPPROTO_IPV6}
    try:
        address = sock.getsockopt(
            families[socket.AddressFamily(sock.family)], _SO_ORIGINAL_DST, _ADDRESS_SIZE
        )
    except (OSError, KeyError):
        return None
    return int.from_bytes(address[2:4], "big")
