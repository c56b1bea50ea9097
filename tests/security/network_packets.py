"""Packets made byte by byte, and a link to put them on as frames: appended to `network_inside`."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

from tests.network.probes import Probe

IPV4, IPV6, ARP, VLAN, PROVIDER_VLAN = 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8
TCP, UDP, ICMP, ICMP6, FRAGMENT, ROUTING, HOP_BY_HOP, OPTIONS = 6, 17, 1, 58, 44, 43, 0, 60
EVERYBODY = b"\xff" * 6
SYN, ACK, FIN, RESET, PUSH = 2, 16, 1, 4, 8


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def ip4(
    source: str,
    to: str,
    protocol: int,
    body: bytes,
    *,
    options: bytes = b"",
    fragment: int = 0,
    ident: int = 7,
    ttl: int = 64,
) -> bytes:
    options += bytes(-len(options) % 4)
    size = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | size // 4,
        0,
        size + len(body),
        ident,
        fragment,
        ttl,
        protocol,
        0,
        packed(source),
        packed(to),
    )
    whole = head + options
    return whole[:10] + struct.pack("!H", checksum(whole)) + whole[12:] + body


def ip6(source: str, to: str, following: int, body: bytes, hops: int = 64) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, len(body), following, hops, packed(source), packed(to)) + body


def summed(source: str, to: str, protocol: int, body: bytes, place: int) -> bytes:
    """With the checksum over the pseudo header, at `place`."""
    pseudo = packed(source) + packed(to) + struct.pack("!II", len(body), protocol)
    return body[:place] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[place + 2 :]


def udp_of(source: str, to: str, data: bytes, port: int = 8000) -> bytes:
    return summed(source, to, UDP, struct.pack("!HHHH", 40000, port, 8 + len(data), 0) + data, 6)


def tcp_of(source: str, to: str, flags: int, data: bytes = b"", port: int = 8000) -> bytes:
    head = struct.pack("!HHIIBBHHH", 40001, port, 1000, 2000, 5 << 4, flags, 65535, 0, 0)
    return summed(source, to, TCP, head + data, 16)


def icmp_of(kind: int, code: int, data: bytes, rest: int = 0) -> bytes:
    body = struct.pack("!BBHI", kind, code, 0, rest) + data
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def icmp6_of(source: str, to: str, kind: int, code: int, data: bytes) -> bytes:
    return summed(source, to, ICMP6, struct.pack("!BBHI", kind, code, 0, 0) + data, 2)


class Wire:
    """One link, and who is at both of its ends."""

    def __init__(self, probe: Probe) -> None:
        self.link, self.token = probe["link"], probe["token"]
        self.four, self.six = probe["four"], probe["six"]
        self.gateway, self.gateway6 = probe["gateway"], probe["gateway6"]
        self.allowed, self.allowed6 = probe["allowed"], probe["allowed6"]
        self.forbidden, self.forbidden6 = probe["forbidden"], probe["forbidden6"]
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.socket.bind((self.link, 0))
        self.mac = self.socket.getsockname()[4]
        self.theirs = self._their_mac()

    def _their_mac(self) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect((self.gateway, 9))
            for _ in range(100):
                asking.send(b"who") if _ % 10 == 0 else None
                time.sleep(0.02)
                for line in Path("/proc/net/arp").read_text().splitlines()[1:]:
                    words = line.split()
                    if words[0] == self.gateway and words[2] != "0x0":
                        return bytes.fromhex(words[3].replace(":", ""))
        raise OSError("nobody is at the other end")

    def send(
        self, kind: int, body: bytes, *, to: bytes = b"", source: bytes = b"", tags: bytes = b""
    ) -> None:
        frame = (to or self.theirs) + (source or self.mac) + tags + struct.pack("!H", kind) + body
        self.socket.send(frame.ljust(60, b"\0"))
