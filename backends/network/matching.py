"""One rule of a policy as conditions of nft, on the connection's original destination. Pure.

The original tuple, not the packet's own addresses: so the same lines judge a connection by its first packet,
by an answer of its peer after the rules were replaced, and whether it was redirected or not.
"""

from __future__ import annotations

from backends.errors import PolicyRefused, Problem
from backends.frozen import frozen
from backends.network.exact_sets import ExactSet, exact_sets
from backends.network.policy import Ports, Protocol, Rule
from backends.network.ranges import BITS, FAMILIES, KEYWORD, Range, elements, merged, parse, without

__all__ = ["MAX_BLOCKS", "MOST_IN_A_TREE", "Matching", "address_set", "destination", "matching", "port_set"]

MAX_BLOCKS = 256
MOST_IN_A_TREE = 256
_ICMP = {4: "icmp", 6: "ipv6-icmp"}
_EVERY_PORT = (0, 65535)
_TRANSLATED = 0x64_FF9B << 96
"""The first address of 64:ff9b::/96."""


@frozen
class Matching:
    """A packet that meets any one of `conditions` meets the rule; none of them: nothing does.

    `sets` declares the sets of ranges that they name, `exact` are the others; `size` is how many elements the
    rule asked for.
    """

    conditions: tuple[str, ...]
    sets: tuple[str, ...] = ()
    exact: tuple[ExactSet, ...] = ()
    size: int = 0


def matching(rule: Rule, *, translated: bool = False) -> Matching:
    """What `rule` matches, with its sets named after it.

    Parameters
    ----------
    translated: also the addresses by which a network with NAT64 reaches those of IPv4 (RFC 6052 §2.1).

    Raises `PolicyRefused` for text that is no network, and for exceptions that leave more than `MAX_BLOCKS`
    blocks of one peer (spec: policy-semantics.md §3.1).
    """
    found = _addresses(rule)
    if translated and rule.to:
        embedded = [(_TRANSLATED + first, _TRANSLATED + last) for first, last in found[4]]
        found[6] = merged((*found[6], *embedded))
    conditions: list[str] = []
    sets: list[str] = []
    exact: list[ExactSet] = []
    sizes = {4: 0, 6: 0}
    for family in FAMILIES:
        ranges = found[family]
        if not ranges:
            continue
        places = [f"meta nfproto ipv{family}"]
        if ranges != ((0, (1 << BITS[family]) - 1),):
            if len(ranges) <= MOST_IN_A_TREE:
                name, texts = f"{rule.name}.v{family}", elements(family, ranges)
                sets.append(_tree(name, family, texts))
                places, sizes[family] = [f"ct original {KEYWORD[family]} daddr @{name}"], len(texts)
            else:
                made = exact_sets(rule.name, family, ranges)
                exact += made
                places, sizes[family] = [one.condition for one in made], sum(len(one.firsts) for one in made)
        what = _protocols(rule.ports, family)
        conditions += [f"{where} {each}".rstrip() for where in places for each in what]
    written = sizes[6] - sizes[4] if translated else sizes[6]
    return Matching(tuple(conditions), tuple(sets), tuple(exact), sizes[4] + max(0, written))


def _tree(name: str, family: int, texts: list[str]) -> str:
    return f"set {name} {{ type ipv{family}_addr; flags interval; elements = {{ {', '.join(texts)} }}\n\t}}"


def destination(family: int, networks: tuple[Range, ...]) -> str:
    """The condition that the original destination lies in `networks`, which are not none."""
    return f"ct original {KEYWORD[family]} daddr {address_set(family, networks)}"


def address_set(family: int, networks: tuple[Range, ...]) -> str:
    """Ranges of addresses as the right side of a comparison."""
    return f"{{ {', '.join(elements(family, networks))} }}"


def port_set(ports: tuple[Range, ...]) -> str:
    """Ranges of ports as the right side of a comparison."""
    return f"{{ {', '.join(str(a) if a == b else f'{a}-{b}' for a, b in ports)} }}"


def _addresses(rule: Rule) -> dict[int, tuple[Range, ...]]:
    """Ranges of each family; all of it where the rule has no peers."""
    if not rule.to:
        return {family: ((0, (1 << BITS[family]) - 1),) for family in FAMILIES}
    found: dict[int, list[Range]] = {family: [] for family in FAMILIES}
    for peer in rule.to:
        try:
            family, whole = parse(peer.cidr)
            if not peer.excepted:
                found[family].append(whole)
                continue
            ranges = _carved(family, whole, peer.excepted)
        except ValueError as error:
            problem = Problem("network_address", rule.pointer, str(error), expected="an address or a network")
            raise PolicyRefused(problem) from None
        if len(ranges) > MAX_BLOCKS:
            raise PolicyRefused(
                Problem(
                    "network_exceptions",
                    rule.pointer,
                    f"what is left of {peer.cidr} without its exceptions are {len(ranges)} blocks",
                    expected=f"at most {MAX_BLOCKS}",
                    fix="list the networks that are meant instead",
                )
            )
        found[family] += ranges
    return {family: merged(ranges) for family, ranges in found.items()}


def _carved(family: int, whole: Range, excepted: tuple[str, ...]) -> tuple[Range, ...]:
    holes = [parse(text) for text in excepted]
    return without(whole, [hole for other, hole in holes if other == family])


def _protocols(ports: tuple[Ports, ...], family: int) -> list[str]:
    """What each of the conditions says about protocol and port; an empty one leaves both open."""
    if not ports or any(entry.protocol is Protocol.ANY and entry.first is None for entry in ports):
        return [""]
    tcp = _numbers(ports, Protocol.TCP)
    udp = _numbers(ports, Protocol.UDP)
    if tcp and tcp == udp:
        found = [_transport("{ tcp, udp }", tcp)]
    else:
        found = [_transport(name, numbers) for name, numbers in (("tcp", tcp), ("udp", udp)) if numbers]
    if any(entry.protocol is Protocol.ICMP for entry in ports):
        found.append(f"meta l4proto {_ICMP[family]}")
    return found


def _numbers(ports: tuple[Ports, ...], protocol: Protocol) -> tuple[Range, ...]:
    return merged(
        _EVERY_PORT
        if entry.first is None
        else (entry.first, entry.first if entry.last is None else entry.last)
        for entry in ports
        if entry.protocol in (protocol, Protocol.ANY)
    )


def _transport(protocols: str, numbers: tuple[Range, ...]) -> str:
    condition = f"meta l4proto {protocols}"
    return (
        condition if numbers == (_EVERY_PORT,) else f"{condition} ct original proto-dst {port_set(numbers)}"
    )
