"""Frames as who owns a machine's kernel can make them: appended to `network_packets`, run as root in a guest.

Each attack is a name and the frames that it takes; `{token}:NAME` is somewhere in all of them.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator

from tests.network.probes import Probe
from tests.security.network_packets import (
    ACK,
    ARP,
    EVERYBODY,
    FIN,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP,
    ICMP6,
    IPV4,
    IPV6,
    OPTIONS,
    PROVIDER_VLAN,
    PUSH,
    RESET,
    ROUTING,
    SYN,
    TCP,
    UDP,
    VLAN,
    Wire,
    icmp6_of,
    icmp_of,
    ip4,
    ip6,
    packed,
    summed,
    tcp_of,
    udp_of,
)

Attack = Callable[[Wire, bytes], None]
ATTACKS: dict[str, Attack] = {}


def attack(made: Attack) -> Attack:
    ATTACKS[made.__name__] = made
    return made


def frames(probe: Probe) -> str:
    """All of them, or those of `which`."""
    wire = Wire(probe)
    names = probe.get("which") or list(ATTACKS)
    for name in names:
        try:
            ATTACKS[name](wire, f"{wire.token}:{name}:".encode())
        except OSError as error:
            print(f'{{"probe": -1, "name": "{name}", "said": "{error}"}}')
    time.sleep(probe.get("stay", 1))
    return " ".join(names)


# --- what is forbidden, plainly and otherwise --------------------------------------------------------


def datagram4(wire: Wire, data: bytes, to: str, source: str = "") -> bytes:
    source = source or wire.four
    return ip4(source, to, UDP, udp_of(source, to, data))


def datagram6(wire: Wire, data: bytes, to: str, source: str = "") -> bytes:
    source = source or wire.six
    return ip6(source, to, UDP, udp_of(source, to, data))


@attack
def plain(wire: Wire, data: bytes) -> None:
    wire.send(IPV4, datagram4(wire, data, wire.forbidden))
    wire.send(IPV6, datagram6(wire, data, wire.forbidden6))


@attack
def closed_ports(wire: Wire, data: bytes) -> None:
    for port in (22, 53, 123, 8001):
        wire.send(IPV4, ip4(wire.four, wire.allowed, UDP, udp_of(wire.four, wire.allowed, data, port)))
        wire.send(IPV6, ip6(wire.six, wire.allowed6, UDP, udp_of(wire.six, wire.allowed6, data, port)))


@attack
def streams_without_a_beginning(wire: Wire, data: bytes) -> None:
    for flags in (0, ACK, ACK | PUSH, FIN, FIN | ACK, RESET, RESET | ACK, SYN | ACK, SYN | FIN, 63, SYN):
        wire.send(IPV4, ip4(wire.four, wire.forbidden, TCP, tcp_of(wire.four, wire.forbidden, flags, data)))
        wire.send(IPV6, ip6(wire.six, wire.forbidden6, TCP, tcp_of(wire.six, wire.forbidden6, flags, data)))


@attack
def other_protocols(wire: Wire, data: bytes) -> None:
    for protocol in (0, 2, 4, 41, 46, 47, 50, 51, 89, 103, 112, 115, 132, 136, 253, 255):
        for to in (wire.forbidden, wire.allowed):
            inner = datagram4(wire, data, wire.forbidden) if protocol == 4 else data * 2
            wire.send(IPV4, ip4(wire.four, to, protocol, inner))
        for to in (wire.forbidden6, wire.allowed6):
            inner = datagram6(wire, data, wire.forbidden6) if protocol == 41 else data * 2
            wire.send(IPV6, ip6(wire.six, to, protocol, inner))


@attack
def pieces(wire: Wire, data: bytes) -> None:
    """Without ports in the first, out of order, one over the other, the last alone."""
    whole = udp_of(wire.four, wire.forbidden, data * 8)
    wire.send(IPV4, ip4(wire.four, wire.forbidden, UDP, whole[:8], fragment=0x2000, ident=11))
    wire.send(IPV4, ip4(wire.four, wire.forbidden, UDP, whole[8:], fragment=1, ident=11))
    wire.send(IPV4, ip4(wire.four, wire.forbidden, UDP, whole[8:], fragment=1, ident=12))
    wire.send(IPV4, ip4(wire.four, wire.forbidden, UDP, whole[:8], fragment=0x2000, ident=12))
    wire.send(IPV4, ip4(wire.four, wire.forbidden, UDP, data, fragment=100, ident=13))
    allowed = udp_of(wire.four, wire.allowed, data * 8)
    closed = udp_of(wire.four, wire.allowed, data * 8, 22)
    wire.send(IPV4, ip4(wire.four, wire.allowed, UDP, allowed[:16], fragment=0x2000, ident=14))
    wire.send(IPV4, ip4(wire.four, wire.allowed, UDP, closed[:24], fragment=0x2000, ident=14))
    wire.send(IPV4, ip4(wire.four, wire.allowed, UDP, closed[24:], fragment=3, ident=14))
    wire.send(IPV4, ip4(wire.four, wire.allowed, UDP, closed[24:] + data, fragment=3, ident=15))


def piece6(
    wire: Wire, to: str, body: bytes, place: int, more: int, ident: int, following: int = UDP
) -> bytes:
    return ip6(wire.six, to, FRAGMENT, struct.pack("!BBHI", following, 0, place << 3 | more, ident) + body)


@attack
def pieces6(wire: Wire, data: bytes) -> None:
    whole = udp_of(wire.six, wire.forbidden6, data * 8)
    wire.send(IPV6, piece6(wire, wire.forbidden6, whole, 0, 0, 21))
    wire.send(IPV6, piece6(wire, wire.forbidden6, whole[:8], 0, 1, 22))
    wire.send(IPV6, piece6(wire, wire.forbidden6, whole[8:], 1, 0, 22))
    wire.send(IPV6, piece6(wire, wire.forbidden6, data, 100, 0, 23))
    options = struct.pack("!BBHI", UDP, 0, 0x104, 0)
    wire.send(IPV6, piece6(wire, wire.forbidden6, options + whole, 0, 0, 24, OPTIONS))
    closed = udp_of(wire.six, wire.allowed6, data * 8, 22)
    wire.send(IPV6, piece6(wire, wire.allowed6, options, 0, 1, 25, OPTIONS))
    wire.send(IPV6, piece6(wire, wire.allowed6, closed, 1, 0, 25, OPTIONS))


@attack
def routes_of_our_own(wire: Wire, data: bytes) -> None:
    for first in (wire.gateway, "10.187.0.1", "203.0.113.2"):
        for kind in (0x83, 0x89):
            options = struct.pack("BBB", kind, 7, 4) + packed(wire.forbidden)
            wire.send(
                IPV4, ip4(wire.four, first, UDP, udp_of(wire.four, wire.forbidden, data), options=options)
            )
    for first in (wire.gateway6, "fdb5:6d78:62::1", "2001:db8:113::2"):
        for kind in (0, 2, 4):
            last = struct.pack("!BBBBI", UDP, 2, kind, 1, 0) + packed(wire.forbidden6)
            wire.send(IPV6, ip6(wire.six, first, ROUTING, last + udp_of(wire.six, wire.forbidden6, data)))


@attack
def headers_before_it(wire: Wire, data: bytes) -> None:
    pad = struct.pack("!BBHI", UDP, 0, 0x104, 0)
    for before in (HOP_BY_HOP, OPTIONS):
        wire.send(IPV6, ip6(wire.six, wire.forbidden6, before, pad + udp_of(wire.six, wire.forbidden6, data)))
    many = b"".join(struct.pack("!BBHI", OPTIONS, 0, 0x104, 0) for _ in range(20))
    wire.send(
        IPV6, ip6(wire.six, wire.forbidden6, OPTIONS, many + pad + udp_of(wire.six, wire.forbidden6, data))
    )
    wire.send(IPV6, ip6(wire.six, wire.forbidden6, 59, data))
    options = b"\x07\x07\x04\0\0\0\0\x44\x0c\x05\0" + bytes(8)
    wire.send(
        IPV4, ip4(wire.four, wire.forbidden, UDP, udp_of(wire.four, wire.forbidden, data), options=options)
    )


@attack
def mapped_addresses(wire: Wire, data: bytes) -> None:
    for to in (wire.forbidden, wire.allowed, "127.0.0.1", "10.187.0.1"):
        for source in (wire.six, f"::ffff:{wire.four}"):
            for prefix in ("::ffff:", "::", "64:ff9b::", "::ffff:0:"):
                wire.send(IPV6, datagram6(wire, data, f"{prefix}{to}", source))


# --- whose they are ----------------------------------------------------------------------------------


@attack
def spoofed(wire: Wire, data: bytes) -> None:
    """To who may be talked to, from whom it would take for somebody else."""
    sources = (
        "192.0.0.3",
        wire.gateway,
        "10.187.0.1",
        "10.187.3.9",
        "203.0.113.2",
        "203.0.113.1",
        wire.allowed,
    )
    for source in (*sources, "127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "169.254.1.1"):
        wire.send(IPV4, datagram4(wire, data, wire.allowed, source))
        wire.send(IPV4, ip4(source, wire.allowed, TCP, tcp_of(source, wire.allowed, SYN, data)))
    six = ("fdb5:6d78:63::3", wire.gateway6, "fdb5:6d78:62::1", "2001:db8:113::2", wire.allowed6)
    for source in (*six, "::1", "::", "fe80::1", "ff02::1"):
        wire.send(IPV6, datagram6(wire, data, wire.allowed6, source))
        wire.send(IPV6, ip6(source, wire.allowed6, TCP, tcp_of(source, wire.allowed6, SYN, data)))


@attack
def other_cards(wire: Wire, data: bytes) -> None:
    """What is for everybody on the link, or from who is at its other end."""
    for to in (EVERYBODY, b"\1\0\x5e\0\0\1", b"\x33\x33\0\0\0\1", b"\2\0\0\0\0\x99"):
        wire.send(IPV4, datagram4(wire, data, wire.forbidden), to=to)
        wire.send(IPV6, datagram6(wire, data, wire.forbidden6), to=to)
    for source in (wire.theirs, EVERYBODY, bytes(6)):
        wire.send(IPV4, datagram4(wire, data, wire.forbidden), source=source)


@attack
def tagged(wire: Wire, data: bytes) -> None:
    for number in (0, 1, 100, 4095):
        for tags in (struct.pack("!HH", VLAN, number), struct.pack("!HHHH", PROVIDER_VLAN, number, VLAN, 1)):
            wire.send(IPV4, datagram4(wire, data, wire.forbidden), tags=tags)
            wire.send(IPV6, datagram6(wire, data, wire.forbidden6), tags=tags)
            wire.send(IPV4, datagram4(wire, data, "10.187.0.1"), tags=tags)


@attack
def other_kinds(wire: Wire, data: bytes) -> None:
    inner = datagram4(wire, data, wire.forbidden)
    for kind in (0x88CC, 0x888E, 0x88E5, 0x22F0, 0x6003, IPV6):
        wire.send(kind, inner)
    wire.send(0x8847, b"\0\0\x11\x40" + inner)
    wire.send(0x8864, b"\x11\0\0\1\0\x40\0\x21" + inner)
    wire.send(0x0027, b"\x42\x42\3" + inner)
    wire.send(0x0027, b"\x42\x42\3" + data, to=b"\1\x80\xc2\0\0\0")
    wire.send(0x88CC, data, to=b"\1\x80\xc2\0\0\x0e")
    wire.send(IPV4, datagram6(wire, data, wire.forbidden6))


# --- lies about the link -----------------------------------------------------------------------------


@attack
def claims(wire: Wire, data: bytes) -> None:
    """That everybody's address is here."""
    for address in (wire.gateway, "10.187.0.1", "203.0.113.1", wire.allowed):
        for operation in (1, 2):
            body = (
                struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
                + wire.mac
                + packed(address)
                + bytes(6)
                + packed(address)
            )
            wire.send(ARP, body + data, to=EVERYBODY)
    advert = struct.pack("!BBHI", 134, 0, 0, 0x40080708) + struct.pack("!II", 0, 0)
    for address in (wire.gateway6, wire.allowed6):
        target = packed(address) + b"\2\1" + wire.mac + data
        body = icmp6_of(wire.six, "ff02::1", 136, 0, target)
        wire.send(IPV6, ip6(wire.six, "ff02::1", ICMP6, body, 255), to=b"\x33\x33\0\0\0\1")
    link_local = "fe80::2"
    router = summed(link_local, "ff02::1", ICMP6, advert + data, 2)
    wire.send(IPV6, ip6(link_local, "ff02::1", ICMP6, router, 255), to=b"\x33\x33\0\0\0\1")


@attack
def errors(wire: Wire, data: bytes) -> None:
    """That belong to a connection that is allowed, and are for somebody else; and redirects."""
    wire.send(IPV4, ip4(wire.four, wire.allowed, UDP, udp_of(wire.four, wire.allowed, b"first")))
    wire.send(IPV6, ip6(wire.six, wire.allowed6, UDP, udp_of(wire.six, wire.allowed6, b"first")))
    time.sleep(0.1)
    answer = ip4(wire.allowed, wire.four, UDP, struct.pack("!HHHH", 8000, 40000, 100, 0))
    asked = ip4(wire.four, wire.allowed, UDP, struct.pack("!HHHH", 40000, 8000, 100, 0))
    for inner in (answer, asked):
        for kind, code in ((3, 1), (3, 4), (5, 1), (11, 0), (12, 0), (0, 0), (8, 0), (13, 0)):
            wire.send(IPV4, ip4(wire.four, wire.forbidden, ICMP, icmp_of(kind, code, inner + data)))
    answer6 = ip6(wire.allowed6, wire.six, UDP, struct.pack("!HHHH", 8000, 40000, 8, 0))
    for kind in (1, 2, 3, 4, 128, 129, 137):
        wire.send(
            IPV6,
            ip6(
                wire.six, wire.forbidden6, ICMP6, icmp6_of(wire.six, wire.forbidden6, kind, 0, answer6 + data)
            ),
        )


# --- who is near --------------------------------------------------------------------------------------


@attack
def the_host(wire: Wire, data: bytes) -> None:
    for to in (
        "10.187.0.1",
        "203.0.113.2",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "10.187.3.255",
        "203.0.113.255",
        "224.0.0.1",
        wire.gateway,
    ):
        wire.send(IPV4, datagram4(wire, data, to))
        wire.send(IPV4, ip4(wire.four, to, TCP, tcp_of(wire.four, to, SYN)))
    for to in (
        "fdb5:6d78:62::1",
        "2001:db8:113::2",
        "::1",
        "::",
        "ff02::1",
        "ff05::1",
        "fe80::1",
        wire.gateway6,
    ):
        wire.send(IPV6, datagram6(wire, data, to))
        wire.send(IPV6, ip6(wire.six, to, TCP, tcp_of(wire.six, to, SYN)))


@attack
def broken(wire: Wire, data: bytes) -> None:
    """Lengths and sums that do not hold."""
    whole = datagram4(wire, data, wire.forbidden)
    for place, value in ((0, 0x46), (0, 0x4F), (0, 0x65), (2, 0xFF), (3, 20), (8, 0), (10, 0)):
        wire.send(IPV4, whole[:place] + bytes([value]) + whole[place + 1 :])
    wire.send(IPV4, whole[:21])
    wire.send(IPV4, whole[:1])
    six = datagram6(wire, data, wire.forbidden6)
    for place, value in ((0, 0x40), (4, 0xFF), (5, 0), (6, 255), (7, 0)):
        wire.send(IPV6, six[:place] + bytes([value]) + six[place + 1 :])


def well_made(probe: Probe) -> str:
    """What is allowed, by frames of our own: they are what they are meant to be."""
    wire = Wire(probe)
    data = f"{wire.token}:".encode()
    for _ in good_frames(wire, data):
        time.sleep(0.05)
    time.sleep(1)
    return "sent"


def good_frames(wire: Wire, data: bytes) -> Iterator[None]:
    yield wire.send(IPV4, datagram4(wire, data + b"four", wire.allowed))
    yield wire.send(IPV6, datagram6(wire, data + b"six", wire.allowed6))
    yield wire.send(
        IPV4, ip4(wire.four, wire.allowed, TCP, tcp_of(wire.four, wire.allowed, SYN, data + b"stream"))
    )
    whole = udp_of(wire.four, wire.allowed, data + b"pieces" + bytes(64))
    yield wire.send(IPV4, ip4(wire.four, wire.allowed, UDP, whole[:64], fragment=0x2000, ident=31))
    yield wire.send(IPV4, ip4(wire.four, wire.allowed, UDP, whole[64:], fragment=8, ident=31))
    whole = udp_of(wire.six, wire.allowed6, data + b"p6ieces" + bytes(64))
    yield wire.send(IPV6, piece6(wire, wire.allowed6, whole[:64], 0, 1, 32))
    yield wire.send(IPV6, piece6(wire, wire.allowed6, whole[64:], 8, 0, 32))


def host_socket(_: Probe) -> str:
    """AF_VSOCK, to the host or a hypervisor."""
    for number in (0, 1, 2):
        for port in (22, 1024, 2375, 8000):
            with socket.socket(40, socket.SOCK_STREAM) as sock:
                sock.settimeout(1)
                if sock.connect_ex((number, port)) == 0:
                    return f"connected to {number}:{port}"
    raise OSError("nobody answers")
