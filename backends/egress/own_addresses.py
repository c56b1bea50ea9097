"""The addresses of the host itself: what listens there is not the internet, whatever a name says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from ipaddress import IPv6Address, ip_network

from backends.egress.addresses import Network

__all__ = ["OwnAddresses", "parse_own", "read_kernel_tables"]

_FRESH_S = 1.0
_FIB_TRIE = "/proc/net/fib_trie"
_IF_INET6 = "/proc/net/if_inet6"
# Other tables ("Id 100:") are for marked packets; a transparent proxy's has every address as local.
_TABLES = ("Main:", "Local:")
# A leaf, then its lines, of which those of local and broadcast routes are about the host itself.
_LEAF = re.compile(r"\s+\|-- ([0-9.]+)")
_ROUTE = re.compile(r"\s+/([0-9]+) \S+ (?:LOCAL|BROADCAST|ANYCAST)\b")


def read_kernel_tables() -> tuple[str, str]:
    """The texts of ``/proc/net/fib_trie`` and ``/proc/net/if_inet6`` (proc_net(5)); a host may lack IPv6."""
    with open(_FIB_TRIE, encoding="utf-8") as table:
        trie = table.read()
    try:
        with open(_IF_INET6, encoding="utf-8") as table:
            return trie, table.read()
    except FileNotFoundError:
        return trie, ""


def parse_own(trie: str, interfaces: str) -> tuple[Network, ...]:
    """Every network whose packets the host keeps for itself, from the two tables' texts."""
    found: dict[Network, None] = {}
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


class OwnAddresses:
    """Asks the kernel anew where its last answer is more than a second old.

    Parameters
    ----------
    source: gives the two tables; its OSError is the caller's: without them no address may be allowed.
    clock: seconds, never running backwards.
    """

    def __init__(
        self,
        source: Callable[[], tuple[str, str]] = read_kernel_tables,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._clock = clock
        self._known: tuple[Network, ...] = ()
        self._until = float("-inf")

    def networks(self) -> tuple[Network, ...]:
        now = self._clock()
        if now >= self._until:
            self._known = parse_own(*self._source())
            self._until = now + _FRESH_S
        return self._known
