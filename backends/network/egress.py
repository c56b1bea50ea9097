"""The chain that judges what the sandbox opens: the policy's order, on the original destination. Pure."""

from __future__ import annotations

from backends.errors import PolicyRefused, Problem
from backends.frozen import frozen
from backends.network.exact_sets import ExactSet
from backends.network.layout import Layout
from backends.network.matching import Matching, address_set, matching
from backends.network.policy import NetworkPolicy, Rule
from backends.network.ranges import FAMILIES, KEYWORD, Range, elements, merged, parse
from backends.network.verdicts import chain

__all__ = [
    "DEFAULT",
    "HOST",
    "HOST_SETS",
    "MAPPED",
    "MAX_ELEMENTS",
    "SPOOFED",
    "Matched",
    "egress",
    "host_sets",
    "match_all",
    "networks",
    "spoofed",
]

DEFAULT = "egress.default"
HOST = "egress.host"
MAPPED = "egress.mapped"
SPOOFED = "egress.spoofed"
MAX_ELEMENTS = 65_536
HOST_SETS = {4: "host.v4", 6: "host.v6"}
_NOBODYS = {
    4: "{ 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 255.255.255.255 }",
    6: "{ ::/127, fe80::/10, ff00::/8 }",
}
"""Loopback that is sent out by a link, which a helper may pass on; the link's own, where the host is all that
there is; and what goes to many, of whom it is one."""


@frozen
class Matched:
    """A policy's rules with what each of them matches."""

    deny: tuple[tuple[Rule, Matching], ...]
    allow: tuple[tuple[Rule, Matching], ...]

    @property
    def sets(self) -> list[str]:
        return [text for _, found in (*self.deny, *self.allow) for text in found.sets]

    @property
    def exact(self) -> tuple[ExactSet, ...]:
        return tuple(one for _, found in (*self.deny, *self.allow) for one in found.exact)


def match_all(policy: NetworkPolicy) -> Matched:
    """Raises `PolicyRefused` as `matching` does, and where all sets together exceed `MAX_ELEMENTS`."""
    total = 0
    found: list[tuple[Rule, Matching]] = []
    for index, rule in enumerate((*policy.deny, *policy.allow)):
        one = matching(rule, translated=index < len(policy.deny))
        total += one.size
        if total > MAX_ELEMENTS:
            message = f"with this rule, the policy has more than {MAX_ELEMENTS} blocks of addresses"
            raise PolicyRefused(Problem("network_size", rule.pointer, message))
        found.append((rule, one))
    return Matched(tuple(found[: len(policy.deny)]), tuple(found[len(policy.deny) :]))


def networks(texts: tuple[str, ...]) -> dict[int, tuple[Range, ...]]:
    """Addresses and networks of a layout, by family. Raises `ValueError` for any other text."""
    return {family: merged(ranges) for family, ranges in _parsed(texts).items()}


def _parsed(texts: tuple[str, ...]) -> dict[int, list[Range]]:
    found: dict[int, list[Range]] = {family: [] for family in FAMILIES}
    for text in texts:
        family, one = parse(text)
        found[family].append(one)
    return found


def host_sets(layout: Layout) -> list[str]:
    """The sets of the host's addresses: those that it gets later are added to them (`steps.Watch`).

    Each for itself, and in no range: one that is told of again, as by every renewal of a lease, is added
    again, and nft takes no part of a range for it. Raises `ValueError` for what is no address.
    """
    found: list[str] = []
    for family, ranges in _parsed(layout.host_addresses).items():
        texts = dict.fromkeys(elements(family, [one for one in ranges if one[0] == one[1]]))
        listed = f" elements = {{ {', '.join(texts)} }}" if texts else ""
        found.append(f"set {HOST_SETS[family]} {{ type ipv{family}_addr;{listed}\n\t}}")
    return found


def _host(layout: Layout) -> list[str]:
    """The conditions that a destination is the host's."""
    found: list[str] = []
    for family, ranges in _parsed(layout.host_addresses).items():
        whole = merged(one for one in ranges if one[0] != one[1])
        closed = [f"@{HOST_SETS[family]}", _NOBODYS[family], *([address_set(family, whole)] if whole else [])]
        found += [f"ct original {KEYWORD[family]} daddr {one}" for one in closed]
    return found


def spoofed(own: tuple[str, ...], condition: str = "") -> list[str]:
    """What leads packets that meet `condition` to `SPOOFED`, unless they are from one of `own`."""
    known = networks(own)
    found: list[str] = []
    for family, keyword in ((4, "ip"), (6, "ip6")):
        ours = f"{keyword} saddr != {address_set(family, known[family])}" if known[family] else ""
        found.append(f"{condition} {ours or f'meta nfproto ipv{family}'} goto {SPOOFED}".strip())
    return found


def egress(layout: Layout, matched: Matched, redirects: list[str]) -> str:
    """The chain: the host, deny, allow, what the proxy takes instead of the default, the default.

    ``::ffff:0:0/96`` is no destination on any wire (RFC 4291 §2.5.5.2), and a rule for such a block is one
    for IPv4: packets that bear one are refused, lest they pass as IPv6.
    """
    lines = [f"{condition} goto {HOST}" for condition in _host(layout)]
    lines.append(f"ct original ip6 daddr ::ffff:0:0/96 goto {MAPPED}")
    for rule, found in (*matched.deny, *matched.allow):
        lines += [f"{condition} goto {rule.name}" for condition in found.conditions]
    return chain("egress", [*lines, *redirects, f"goto {DEFAULT}"])
