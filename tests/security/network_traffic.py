"""Ways around a rule for addresses, from inside a sandbox, without rights: appended to `network_inside`.

All send `token` to `to`, or under a source that is not the sandbox's. What is told is only whether the system
refused to: whether it came anywhere is for others to see.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress

from tests.network.probes import FAMILIES, Probe

SOURCE_ROUTE, STRICT_ROUTE = 0x83, 0x89
FREEBIND, IP_OPTIONS, PKTINFO = 15, 4, 8
FREEBIND6, ROUTING6, PKTINFO6 = 78, 57, 50
FAST_OPEN, MPTCP = 0x20000000, 262
LINK = next((name for _, name in socket.if_nameindex() if name != "lo"), "lo")


def datagram(probe: Probe, sock: socket.socket, *where: object) -> str:
    sock.settimeout(2)
    sock.sendto(probe["token"].encode(), (probe["to"], probe["port"], *where))
    return "sent"


def plainly(probe: Probe) -> str:
    with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_DGRAM) as sock:
        return datagram(probe, sock)


def mapped(probe: Probe) -> str:
    """An IPv4 address by a socket of IPv6."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        return datagram({**probe, "to": f"::ffff:{probe['to']}"}, sock)


def mapped_stream(probe: Probe) -> str:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        return say(probe, sock, f"::ffff:{probe['to']}")


def say(probe: Probe, sock: socket.socket, to: str) -> str:
    sock.settimeout(2)
    sock.connect((to, probe["port"]))
    sock.sendall(probe["token"].encode())
    return "sent"


def stream(probe: Probe) -> str:
    with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_STREAM) as sock:
        return say(probe, sock, probe["to"])


def in_first_segment(probe: Probe) -> str:
    """TCP Fast Open: data before the handshake."""
    with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_STREAM) as sock:
        sock.settimeout(2)
        sock.sendto(probe["token"].encode(), FAST_OPEN, (probe["to"], probe["port"]))
    return "sent"


def by_several_paths(probe: Probe) -> str:
    with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_STREAM, MPTCP) as sock:
        return say(probe, sock, probe["to"])


def in_fragments(probe: Probe) -> str:
    """A datagram that does not fit: only its first fragment has ports."""
    with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_DGRAM) as sock:
        return datagram({**probe, "token": probe["token"] * (4000 // len(probe["token"]))}, sock)


def then_elsewhere(probe: Probe) -> str:
    """A socket that has talked to who may be talked to."""
    with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.sendto(b"first", (probe["first"], probe["port"]))
        sock.recv(100)
        return datagram(probe, sock)


def bound_to_link(probe: Probe) -> str:
    """Past the routes: SO_BINDTODEVICE needs no right."""
    with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 25, probe.get("link", LINK).encode())
        return datagram(probe, sock)


def source_route(probe: Probe) -> str:
    """By way of `first`, which may be talked to (RFC 791 §3.1)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        hops = socket.inet_aton(probe["first"]) + socket.inet_aton(probe["to"])
        kind = STRICT_ROUTE if probe.get("strict") else SOURCE_ROUTE
        sock.setsockopt(
            socket.IPPROTO_IP, IP_OPTIONS, struct.pack("BBB", kind, 3 + len(hops), 4) + hops + b"\0"
        )
        return datagram(probe, sock)


def source_route6(probe: Probe) -> str:
    """The same with a routing header of kind 2 or 4 (RFC 6275, RFC 8754)."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        hop = socket.inet_pton(socket.AF_INET6, probe["first"])
        if probe["kind_of_header"] == 2:
            header = struct.pack("BBBBI", 0, 2, 2, 1, 0) + hop
        else:
            header = struct.pack("BBBBBBH", 0, 4, 4, 1, 1, 0, 0) + bytes(16) + hop
        sock.setsockopt(socket.IPPROTO_IPV6, ROUTING6, header)
        return datagram(probe, sock)


def from_elsewhere(probe: Probe) -> str:
    """Bound to an address that is not ours."""
    six = ":" in probe["to"]
    with socket.socket(FAMILIES[six], socket.SOCK_DGRAM) as sock:
        level, name = (socket.IPPROTO_IPV6, FREEBIND6) if six else (socket.IPPROTO_IP, FREEBIND)
        sock.setsockopt(level, name, 1)
        sock.bind((probe["source"], 0))
        return datagram(probe, sock)


def from_elsewhere_once(probe: Probe) -> str:
    """One datagram with such a source of its own."""
    six = ":" in probe["to"]
    source = socket.inet_pton(FAMILIES[six], probe["source"])
    with socket.socket(FAMILIES[six], socket.SOCK_DGRAM) as sock:
        level, name = (socket.IPPROTO_IPV6, FREEBIND6) if six else (socket.IPPROTO_IP, FREEBIND)
        sock.setsockopt(level, name, 1)
        kind, info = (PKTINFO6, source + bytes(4)) if six else (PKTINFO, bytes(4) + source + bytes(4))
        sock.sendmsg([probe["token"].encode()], [(level, kind, info)], 0, (probe["to"], probe["port"]))
    return "sent"


def to_everybody(probe: Probe) -> str:
    """Broadcast and multicast, also to who shares the link with us."""
    six = ":" in probe["to"]
    with socket.socket(FAMILIES[six], socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if not six:
            return datagram(probe, sock)
        return datagram(probe, sock, 0, socket.if_nametoindex(probe.get("link", LINK)))


def echo_request(probe: Probe) -> str:
    """What is to be told, in a ping."""
    six = ":" in probe["to"]
    protocol, kind = (socket.IPPROTO_ICMPV6, 128) if six else (socket.IPPROTO_ICMP, 8)
    with socket.socket(FAMILIES[six], socket.SOCK_DGRAM, protocol) as sock:
        sock.settimeout(2)
        sock.sendto(struct.pack("!BBHHH", kind, 0, 0, 0, 0) + probe["token"].encode(), (probe["to"], 0))
    return "sent"


def for_long(probe: Probe) -> str:
    """One attempt after another, for `seconds`; a datagram and the beginning of a connection each."""
    until = time.monotonic() + probe["seconds"]
    while time.monotonic() < until:
        with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_DGRAM) as sock, suppress(OSError):
            datagram(probe, sock)
        with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.connect_ex((probe["to"], probe["port"]))
            time.sleep(0.005)
    return "tried"


def stream_bound_to_link(probe: Probe) -> str:
    """The same with TCP, from our own address where `source` is said; with the answer, if there is one."""
    with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, 25, probe.get("link", LINK).encode())
        if "source" in probe:
            sock.bind((probe["source"], 0))
        say(probe, sock, probe["to"])
        return f"answered: {sock.recv(100)!r}"


def note(probe: Probe) -> str:
    """Tell on the board that we have begun."""
    with socket.create_connection((probe["to"], probe["port"]), 10) as sock:
        sock.sendall(f"GET /say/{probe['key']}/up HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
        while sock.recv(65536):
            pass
    return "told"


def pour(probe: Probe) -> str:
    """Many connections, all of them in use, and as many new ones tried, until the sandbox ends."""
    held: list[socket.socket] = []
    for _ in range(probe["count"]):
        held.append(socket.create_connection((probe["to"], probe["port"]), 5))
        held.append(socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_DGRAM))
        held[-1].connect((probe["to"], probe["port"]))
    note({**probe, "to": probe["board"], "port": 80})
    for sock in held:
        sock.setblocking(False)
    while True:
        for sock in held:
            try:
                sock.send(probe["token"].encode())
                sock.recv(65536)
            except OSError:
                continue
        with socket.socket(FAMILIES[":" in probe["to"]], socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            sock.connect_ex((probe["to"], probe["port"]))
        time.sleep(0.005)
