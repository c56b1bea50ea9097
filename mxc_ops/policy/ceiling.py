"""As what an owner may open something later, of what the policy lets them (pure).

A rule lies within a ceiling when one of the ceiling's rules has all of it: the question is never answered by
putting several together, so it may be refused where they would do, and never the other way round.
"""

from __future__ import annotations

from backends.frozen import replace
from backends.network.policy import Ceiling, NameRule, Peer, Ports, Protocol, Rule
from backends.network.ranges import parse

__all__ = ["opened_within"]

_WITH_PORTS = (Protocol.TCP, Protocol.UDP)


def opened_within(rule: Rule | NameRule, ceiling: Ceiling) -> Rule | NameRule | None:
    """The rule as the ceiling lets it be opened; None: it does not.

    A name has methods, addresses and inspection of the ceiling's own rule.
    """
    if isinstance(rule, Rule):
        return rule if any(_rule_within(rule, one) for one in ceiling.allow) else None
    outer = next((one for one in ceiling.names if _name_within(rule, one)), None)
    if outer is None:
        return None
    return replace(rule, methods=outer.methods, addresses=outer.addresses, inspection=outer.inspection)


def _name_within(rule: NameRule, outer: NameRule) -> bool:
    ports = all(any(a[0] <= b[0] and b[1] <= a[1] for a in outer.ports) for b in rule.ports)
    return ports and _pattern_within(rule.pattern, outer.pattern)


def _pattern_within(inner: str, outer: str) -> bool:
    if outer in ("*", inner):
        return True
    return outer.startswith("*.") and inner.endswith(outer[1:])


def _rule_within(rule: Rule, outer: Rule) -> bool:
    peers = not outer.to or (bool(rule.to) and all(_peer_within(peer, outer.to) for peer in rule.to))
    ports = not outer.ports or (
        bool(rule.ports) and all(_ports_within(one, outer.ports) for one in rule.ports)
    )
    return peers and ports


def _peer_within(peer: Peer, outer: tuple[Peer, ...]) -> bool:
    return any(
        _network_within(peer.cidr, one.cidr)
        and all(
            not _overlap(peer.cidr, hole) or any(_network_within(hole, own) for own in peer.excepted)
            for hole in one.excepted
        )
        for one in outer
    )


def _ports_within(ports: Ports, outer: tuple[Ports, ...]) -> bool:
    wanted = _WITH_PORTS if ports.protocol is Protocol.ANY and ports.first is not None else (ports.protocol,)
    return all(any(_entry_within(protocol, ports, one) for one in outer) for protocol in wanted)


def _entry_within(protocol: Protocol, ports: Ports, outer: Ports) -> bool:
    if outer.first is None:
        return outer.protocol in (Protocol.ANY, protocol)
    same = outer.protocol is protocol or (outer.protocol is Protocol.ANY and protocol in _WITH_PORTS)
    if not same or ports.first is None:
        return False
    last, outer_last = ports.last or ports.first, outer.last or outer.first
    return outer.first <= ports.first and last <= outer_last


def _network_within(inner: str, outer: str) -> bool:
    (family, (first, last)), (outer_family, (outer_first, outer_last)) = parse(inner), parse(outer)
    return family == outer_family and outer_first <= first and last <= outer_last


def _overlap(one: str, other: str) -> bool:
    (family, (first, last)), (other_family, (other_first, other_last)) = parse(one), parse(other)
    return family == other_family and first <= other_last and other_first <= last
