"""Messages of netlink(7) and their attributes: read as far as they go, and written. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator

__all__ = ["GENERIC_BYTES", "attribute", "attributes", "generic", "message", "messages"]

GENERIC_BYTES = 4
"""Of the header that netfilter has at the head of each body (linux/netfilter/nfnetlink.h)."""

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_GENERIC = struct.Struct(">BBH")  # family, version, resource
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def generic(family: int, resource: int = 0) -> bytes:
    """Netfilter's header."""
    return _GENERIC.pack(family, 0, resource)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message, up to the first that is not whole."""
    at = 0
    while at + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, at)
        if not _HEADER.size <= length <= len(datagram) - at:
            return
        yield kind, datagram[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each attribute, up to the first that is not whole."""
    at = 0
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if not _ATTRIBUTE.size <= length <= len(body) - at:
            return
        yield kind & _TYPE_MASK, body[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
