"""What is in the kernel: whether a table is there, and what each rule has counted. Asked for and read. Pure.

By netlink and not by nft(8), which reads every element of every set to list a counter. Sources:
linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import struct

from backends.frozen import frozen
from backends.network.netlink import GENERIC_BYTES, attribute, attributes, generic, message, messages

__all__ = ["RuleCount", "counters_request", "rule_counts", "tables", "tables_request"]

_COUNT = struct.Struct(">Q")
_REQUEST_DUMP = 0x1 | 0x300
_TABLES = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEW_TABLE, _GET_TABLE = _TABLES | 0, _TABLES | 1
_NEW_OBJECT, _GET_OBJECT = _TABLES | 18, _TABLES | 19
_INET = 1
_TABLE, _NAME, _TYPE, _DATA = 1, 2, 3, 4
_TABLE_NAME, _TABLE_FLAGS = 1, 2
_DORMANT = 1
_COUNTER = 1
_BYTES, _PACKETS = 1, 2


@frozen
class RuleCount:
    """What the connections that `name` decided have sent and received; of refused ones, what they tried."""

    name: str
    packets: int
    bytes: int


def tables_request() -> bytes:
    """Asks for all tables of the family inet."""
    return message(_GET_TABLE, _REQUEST_DUMP, 1, generic(_INET))


def tables(answers: bytes) -> dict[str, bool]:
    """The names of the tables; whether each one's rules are in use, or asleep."""
    found: dict[str, bool] = {}
    for kind, body in messages(answers):
        fields = dict(attributes(body[GENERIC_BYTES:])) if kind == _NEW_TABLE else {}
        if {_TABLE_NAME, _TABLE_FLAGS} <= fields.keys():
            flags = int.from_bytes(fields[_TABLE_FLAGS], "big")
            found[fields[_TABLE_NAME].rstrip(b"\0").decode()] = not flags & _DORMANT
    return found


def counters_request(table: str) -> bytes:
    """Asks for all counters of a table of the family inet."""
    body = generic(_INET)
    body += attribute(_TABLE, table.encode() + b"\0") + attribute(_TYPE, struct.pack(">I", _COUNTER))
    return message(_GET_OBJECT, _REQUEST_DUMP, 1, body)


def rule_counts(answers: bytes) -> tuple[RuleCount, ...]:
    """The counters, in the order in which they were made; whatever else is in there is passed over."""
    found: list[RuleCount] = []
    for kind, body in messages(answers):
        fields = dict(attributes(body[GENERIC_BYTES:])) if kind == _NEW_OBJECT else {}
        counts = dict(attributes(fields.get(_DATA, b"")))
        if {_BYTES, _PACKETS} <= counts.keys() and _NAME in fields:
            packets, octets = (_COUNT.unpack(counts[which])[0] for which in (_PACKETS, _BYTES))
            found.append(RuleCount(fields[_NAME].rstrip(b"\0").decode(), packets, octets))
    return tuple(found)
