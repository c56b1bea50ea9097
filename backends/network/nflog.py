"""Decisions as the kernel reports them: NFNETLINK_LOG messages, read and, to ask for them, written. Pure.

Sources: linux/netlink.h, linux/netfilter/nfnetlink_log.h, RFC 791, RFC 8200. The socket, AF_NETLINK with
NETLINK_NETFILTER, must be opened in the ruleset's namespace by one with CAP_NET_ADMIN over it. What a packet
holds is the workload's to choose: whatever it is, it is read as far as it goes, and nothing raises.
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6, inet_ntop

from backends.frozen import frozen
from backends.network.netlink import GENERIC_BYTES, attribute, attributes, generic, message, messages

__all__ = ["Decision", "bind_messages", "decisions"]

_REQUEST_ACK = 0x1 | 0x4
_PACKET = 4 << 8  # NFNL_SUBSYS_ULOG, NFULNL_MSG_PACKET
_CONFIG = 4 << 8 | 1
_PAYLOAD, _PREFIX = 9, 10
_CFG_CMD, _CFG_MODE, _CFG_QTHRESH = 1, 2, 5
_CMD_BIND = 1
_COPY_PACKET = 2
_COPIED_BYTES = 128
_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}
_WITH_PORTS = (6, 17)
_FRAGMENT, _AUTHENTICATION = 44, 51
_EXTENSIONS = (0, 43, 60, _FRAGMENT, _AUTHENTICATION)
_VERDICTS = {"allow": True, "deny": False}


@frozen
class Decision:
    """One packet that a rule decided on: for `allowed`, the first of its connection.

    Parameters
    ----------
    rule: as `ruleset` names it.
    family: 4 or 6; 0: the packet was not readable.
    protocol: ``tcp``, ``udp``, ``icmp`` (ICMPv6 in family 6), or the protocol's number.
    source, destination: addresses; empty where the packet was cut short.
    source_port, destination_port: None where the protocol has none, or the packet was cut short.
    length: bytes of the packet as its own header says.
    """

    rule: str
    allowed: bool
    family: int
    protocol: str
    source: str
    source_port: int | None
    destination: str
    destination_port: int | None
    length: int


def bind_messages(group: int) -> tuple[bytes, ...]:
    """What must be sent to receive the events of `group`, each at once, with the packet's first 128 bytes.

    Each is answered with an errno.
    """
    settings = (
        (_CFG_CMD, struct.pack("=B", _CMD_BIND)),
        (_CFG_MODE, struct.pack(">IBx", _COPIED_BYTES, _COPY_PACKET)),
        (_CFG_QTHRESH, struct.pack(">I", 1)),
    )
    return tuple(_request(number, group, *setting) for number, setting in enumerate(settings, start=1))


def decisions(datagram: bytes) -> tuple[Decision, ...]:
    """The decisions in what was received at once; whatever else is in there is passed over."""
    found: list[Decision] = []
    for kind, body in messages(datagram):
        if kind == _PACKET:
            fields = dict(attributes(body[GENERIC_BYTES:]))
            prefix = fields.get(_PREFIX, b"").rstrip(b"\0").decode("ascii", "replace")
            rule, _, verdict = prefix.rpartition(" ")
            if rule and verdict in _VERDICTS:
                found.append(_decision(rule, _VERDICTS[verdict], fields.get(_PAYLOAD, b"")))
    return tuple(found)


def _request(sequence: int, group: int, kind: int, value: bytes) -> bytes:
    body = generic(0, group) + attribute(kind, value)
    return message(_CONFIG, _REQUEST_ACK, sequence, body)


def _decision(rule: str, allowed: bool, packet: bytes) -> Decision:
    version = packet[0] >> 4 if packet else 0
    if version == 4:
        family, length, protocol, source, destination, rest = _ipv4(packet)
    elif version == 6:
        family, length, protocol, source, destination, rest = _ipv6(packet)
    else:
        return Decision(rule, allowed, 0, "", "", None, "", None, 0)
    source_port, destination_port = _ports(protocol, rest)
    name = "" if protocol is None else _NAMES.get(protocol, str(protocol))
    return Decision(rule, allowed, family, name, source, source_port, destination, destination_port, length)


_Parts = tuple[int, int, int | None, str, str, bytes]  # family, length, protocol, source, destination, rest


def _ipv4(packet: bytes) -> _Parts:
    length = _number(packet[2:4], 2) or 0
    protocol = packet[9] if len(packet) > 9 else None
    later = (_number(packet[6:8], 2) or 0) & 0x1FFF  # a fragment that is not the first
    rest = b"" if later else packet[(packet[0] & 0xF) * 4 :]
    return 4, length, protocol, _address(packet[12:16], 4), _address(packet[16:20], 4), rest


def _ipv6(packet: bytes) -> _Parts:
    length = (_number(packet[4:6], 2) or 0) + 40
    protocol = packet[6] if len(packet) > 6 else None
    rest = packet[40:]
    while protocol in _EXTENSIONS and len(rest) >= 8:
        if protocol == _FRAGMENT:
            size = 8
            if (rest[2] << 8 | rest[3]) & 0xFFF8:
                protocol, rest = rest[0], b""
                break
        else:
            size = (rest[1] + 2) * 4 if protocol == _AUTHENTICATION else (rest[1] + 1) * 8
        protocol, rest = rest[0], rest[size:]
    return 6, length, protocol, _address(packet[8:24], 16), _address(packet[24:40], 16), rest


def _ports(protocol: int | None, rest: bytes) -> tuple[int | None, int | None]:
    if protocol not in _WITH_PORTS:
        return None, None
    return _number(rest[:2], 2), _number(rest[2:4], 2)


def _number(data: bytes, size: int) -> int | None:
    return int.from_bytes(data, "big") if len(data) == size else None


def _address(data: bytes, size: int) -> str:
    return inet_ntop(AF_INET if size == 4 else AF_INET6, data) if len(data) == size else ""
