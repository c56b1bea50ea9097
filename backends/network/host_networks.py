"""The addresses of the host itself, as its kernel tells them: where it answers, alone or as one of many.

Whoever cannot read them must let nothing out: what they do not know of would be open.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

from backends.frozen import frozen

__all__ = ["KernelTables", "parse_own", "read_kernel_tables"]

_FIB_TRIE = "/proc/net/fib_trie"
_IF_INET6 = "/proc/net/if_inet6"
_ROUTES6 = "/proc/net/ipv6_route"
# Other tables ("Id 100:") are for marked packets; a transparent proxy's has every address as local.
_TABLES = ("Main:", "Local:")
# A leaf, then its lines, of which those of local and broadcast routes are about the host itself.
_LEAF = re.compile(r"\s+\|-- ([0-9.]+)")
_ROUTE = re.compile(r"\s+/([0-9]+) \S+ (?:LOCAL|BROADCAST|ANYCAST)\b")
# linux/ipv6_route.h: RTF_LOCAL, RTF_ANYCAST (which a host that forwards has in each of its networks).
_LOCAL_OR_ANYCAST = 0x8000_0000 | 0x0010_0000


@frozen
class KernelTables:
    """The texts of three files of ``/proc/net`` (proc_net(5)); a host may lack IPv6."""

    fib_trie: str
    if_inet6: str = ""
    ipv6_route: str = ""


def read_kernel_tables() -> KernelTables:
    """Raises `OSError`."""
    trie = _read(_FIB_TRIE)
    try:
        interfaces = _read(_IF_INET6)
    except FileNotFoundError:
        return KernelTables(trie)
    return KernelTables(trie, interfaces, _read(_ROUTES6))


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as table:
        return table.read()


def parse_own(tables: KernelTables) -> tuple[IPv4Network | IPv6Network, ...]:
    """Every network whose packets the host keeps for itself."""
    return tuple(dict.fromkeys((*_ipv4(tables.fib_trie), *_ipv6(tables))))


def _ipv4(trie: str) -> Iterator[IPv4Network]:
    leaf, is_ours = "", False
    for line in trie.splitlines():
        if not line.startswith(" "):
            leaf, is_ours = "", line in _TABLES
        elif not is_ours:
            continue
        elif match := _LEAF.match(line):
            leaf = match.group(1)
        elif leaf and (match := _ROUTE.match(line)):
            yield IPv4Network(f"{leaf}/{match.group(1)}", strict=False)


def _ipv6(tables: KernelTables) -> Iterator[IPv6Network]:
    for line in tables.if_inet6.splitlines():
        yield IPv6Network(int(line.split()[0], 16))
    for line in tables.ipv6_route.splitlines():
        first, length, *_, flags, _ = line.split()
        # Whichever table it is of: of a transparent proxy's, all there is.
        if int(length, 16) and int(flags, 16) & _LOCAL_OR_ANYCAST:
            yield IPv6Network((int(first, 16), int(length, 16)))
