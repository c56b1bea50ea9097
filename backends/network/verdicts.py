"""What becomes of a connection once it is judged: its mark, its counter, its event, its end. Pure.

A connection that is accepted gets a mark: the generation of the rules in the upper 16 bits, in the lower ones
the number of the rule that accepted it. Later packets, of both directions, go by the mark alone and are
counted for its rule, until rules of another generation are loaded and it is judged anew. What is refused has
no mark and is judged with every packet.
"""

from __future__ import annotations

from backends.frozen import frozen

__all__ = [
    "ADVERTISEMENTS",
    "INGRESS",
    "LOG_GROUP",
    "SOURCE_ROUTED",
    "Ledger",
    "accepting",
    "chain",
    "notices",
    "redirecting",
    "refuse",
    "refusing",
    "screen",
]

INGRESS = "ingress.default"
LOG_GROUP = 5
_LAST_NUMBER = 0xFFFF
_LIMIT = "limit rate 50/second burst 100 packets"
# Errors that conntrack ties to a connection; redirects, which it ties to one too, are not among them.
_ERRORS = (
    "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
)
# What conntrack ties to no connection by itself; but to the kernel's own it gives that of the packet refused.
_RESET = "tcp flags & rst == rst"
# Neighbours' only (RFC 4861 §7.1): nobody on the link is to give us routes.
ADVERTISEMENTS = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } ip6 hoplimit 255 accept"
# They name destinations that no rule is asked about (RFC 791 §3.1, RFC 8200 §4.4): not in any packet.
SOURCE_ROUTED = tuple(
    f"{route} exists counter name invalid drop" for route in ("ip option lsrr", "ip option ssrr", "exthdr rt")
)
# Confirmed without DNAT: its address was settled when it was new, and no later packet can redirect it.
_SETTLED = "ct status & 0x28 == 0x08"


@frozen
class Ledger:
    """Who accepts, in the order of the marks: rules that let packets out by the uplink, then the others."""

    generation: int
    leaving: tuple[str, ...]
    staying: tuple[str, ...]

    @property
    def accepting(self) -> tuple[str, ...]:
        return self.leaving + self.staying

    def mark(self, name: str) -> str:
        return self._mark(self.accepting.index(name) + 1)

    def known(self, condition: str = "") -> list[str]:
        """Accept and count packets that meet `condition` of any connection accepted under these rules."""
        what = "counter name ct mark map @accounts accept"
        return [f"{condition} {self._marks(self.accepting)} {what}".strip()] if self.accepting else []

    def passing(self, condition: str = "") -> list[str]:
        """The same without counting, for packets that another chain counts."""
        return [f"{condition} {self._marks(self.accepting)} accept".strip()] if self.accepting else []

    def outward(self, condition: str) -> list[str]:
        """`passing`, of connections alone that may use the uplink."""
        return [f"{condition} {self._marks(self.leaving)} accept"] if self.leaving else []

    def elsewhere(self) -> str:
        """The condition that other rules accepted the connection, those of another table or none."""
        return f"ct mark != {self._mark(0)}-{self._mark(_LAST_NUMBER)}"

    def accounts(self) -> list[str]:
        """The map from marks to counters."""
        pairs = ", ".join(f"{self.mark(name)} : {name}" for name in self.accepting)
        return [f"map accounts {{ type mark : counter; elements = {{ {pairs} }}\n\t}}"] if pairs else []

    def _marks(self, names: tuple[str, ...]) -> str:
        first, last = self.mark(names[0]), self.mark(names[-1])
        return f"ct mark {first}" if first == last else f"ct mark {first}-{last}"

    def _mark(self, number: int) -> str:
        return f"0x{self.generation << 16 | number:08x}"


def chain(name: str, rules: list[str], base: str = "") -> str:
    """A chain's declaration; `base` is its type, hook, priority and policy."""
    lines = [f"\t\t{line}\n" for line in ([base, *rules] if base else rules)]
    return f"\tchain {name} {{\n{''.join(lines)}\t}}\n"


def accepting(ledger: Ledger, name: str) -> str:
    """The chain that accepts for `name`; new connections alone are events."""
    return chain(
        name,
        [
            f"ct mark set {ledger.mark(name)}",
            f"counter name {name}",
            f'ct state new {_LIMIT} log prefix "{name} allow" group {LOG_GROUP}',
            "accept",
        ],
    )


def refusing(name: str, last: str = "goto refuse") -> str:
    """The chain that refuses for `name`: by an answer, or, where there must be none, by `last`."""
    return chain(
        name,
        [
            f"counter name {name}",
            f'ct direction original {_LIMIT} log prefix "{name} deny" group {LOG_GROUP}',
            last,
        ],
    )


def redirecting(ledger: Ledger, name: str) -> str:
    """The chain for what goes to the proxy, which reports by itself; direct connections are not left open."""
    return chain(
        name,
        [
            f"counter name {name}",
            f'{_SETTLED} ct direction original {_LIMIT} log prefix "{name} deny" group {LOG_GROUP}',
            f"{_SETTLED} goto refuse",
            f"ct mark set {ledger.mark(name)}",
            "accept",
        ],
    )


def refuse() -> str:
    """The end of what is refused: its sender is told at once, its peer, after a change of rules, nothing.

    To an established TCP connection an ICMP error means little (RFC 5461 §2.1). To a new one of IPv6 Linux
    minds it at the second attempt only, a second later, where both are on one host.
    """
    reset = "meta l4proto tcp reject with tcp reset"
    return chain(
        "refuse",
        [
            "ct direction reply drop",
            f"ct state established {reset}",
            f"meta nfproto ipv6 {reset}",
            "reject with icmpx admin-prohibited",
        ],
    )


def notices(condition: str) -> list[str]:
    """Accept the kernel's own answers to a connection, whatever became of it."""
    return [f"{condition} ct state related {types} accept" for types in (*_ERRORS, _RESET)]


def screen(ledger: Ledger) -> str:
    """The chain ahead of all judging: what returns from it belongs to a connection, and is whole.

    A fragment without ports would pass by rules that name some; conntrack reassembles all, so there is none
    unless that is broken.
    """
    return chain(
        "screen",
        [
            "ct state invalid counter name invalid drop",
            "ip frag-off & 0x1fff != 0 counter name invalid drop",
            "frag frag-off != 0 counter name invalid drop",
            *[line for types in _ERRORS for line in ledger.known(f"ct state related {types}")],
            "ct state != { new, established } drop",
        ],
    )
