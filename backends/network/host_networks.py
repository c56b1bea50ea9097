"""The addresses of the host itself, as its kernel tells them: where it answers, alone or as one of many.

Whoever cannot read them must let nothing out: what they do not know of would be open.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

__all__ = ["parse_own", "read_kernel_tables"]

_FIB_TRIE = "/proc/net/fib_trie"
_IF_INET6 = "/proc/net/if_inet6"
# Other tables ("Id 100:") are for marked packets; a transparent proxy's has every address as local.
_TABLES = ("Main:", "Local:")
# A leaf, then its lines, of which those of local and broadcast routes are about the host itself.
_LEAF = re.compile(r"\s+\|-- ([0-9.]+)")
_ROUTE = re.compile(r"\s+/([0-9]+) \S+ (?:LOCAL|BROADCAST|ANYCAST)\b")


def read_kernel_tables() -> tuple[str, str]:
    """The texts of ``/proc/net/fib_trie`` and ``/proc/net/if_inet6`` (proc_net(5)); a host may lack IPv6.

    Raises `OSError`.
    """
    with open(_FIB_TRIE, encoding="utf-8") as table:
        trie = table.read()
    try:
        with open(_IF_INET6, encoding="utf-8") as table:
            return trie, table.read()
    except FileNotFoundError:
        return trie, ""


def parse_own(trie: str, interfaces: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Every network whose packets the host keeps for itself, from the two tables' texts."""
    found: dict[IPv4Network | IPv6Network, None] = {}
    leaf, is_ours = "", False
    for line in trie.splitlines():
        if not line.startswith(" "):
            leaf, is_ours = "", line in _TABLES
        elif not is_ours:
            continue
        elif match := _LEAF.match(line):
            leaf = match.group(1)
        elif leaf and (match := _ROUTE.match(line)):
            found[ip_network(f"{leaf}/{match.group(1)}", strict=False)] = None
    for line in interfaces.splitlines():
        found[ip_network(IPv6Address(int(line.split()[0], 16)))] = None
    return tuple(found)
