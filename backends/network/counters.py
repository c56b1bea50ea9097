"""What each rule has counted: the kernel's list of a table's counters, asked for and read. Pure.

By netlink and not by nft(8), which reads every element of every set to list a counter. Sources:
linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import struct

from backends.frozen import frozen
from backends.network.netlink import attribute, attributes, message, messages

__all__ = ["RuleCount", "counters_request", "rule_counts"]

_GENERIC = struct.Struct(">BBH")  # family, version, resource
_COUNT = struct.Struct(">Q")
_REQUEST_DUMP = 0x1 | 0x300
_TABLES = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEW_OBJECT, _GET_OBJECT = _TABLES | 18, _TABLES | 19
_INET = 1
_TABLE, _NAME, _TYPE, _DATA = 1, 2, 3, 4
_COUNTER = 1
_BYTES, _PACKETS = 1, 2


@frozen
class RuleCount:
    """What the connections that `name` decided have sent and received; of refused ones, what they tried."""

    name: str
    packets: int
    bytes: int


def counters_request(table: str) -> bytes:
    """Asks for all counters of a table of the family inet."""
    body = _GENERIC.pack(_INET, 0, 0)
    body += attribute(_TABLE, table.encode() + b"\0") + attribute(_TYPE, struct.pack(">I", _COUNTER))
    return message(_GET_OBJECT, _REQUEST_DUMP, 1, body)


def rule_counts(answers: bytes) -> tuple[RuleCount, ...]:
    """The counters, in the order in which they were made; whatever else is in there is passed over."""
    found: list[RuleCount] = []
    for kind, body in messages(answers):
        fields = dict(attributes(body[_GENERIC.size :])) if kind == _NEW_OBJECT else {}
        counts = dict(attributes(fields.get(_DATA, b"")))
        if {_BYTES, _PACKETS} <= counts.keys() and _NAME in fields:
            packets, octets = (_COUNT.unpack(counts[which])[0] for which in (_PACKETS, _BYTES))
            found.append(RuleCount(fields[_NAME].rstrip(b"\0").decode(), packets, octets))
    return tuple(found)
