"""What a network policy says about a connection, read straight from its definition, and policies to ask.

Source: policy-semantics.md §3.1, and nothing of the generator. A destination is compared with every network
as it is written; there are no sets, no merging, no subtraction.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from hypothesis import strategies as st

from backends.network.policy import NetworkPolicy, Peer, Ports, Protocol, Rule
from tests.unit.packet_simulator import Address

__all__ = ["ICMP", "Asked", "decide", "edges", "policies", "port_edges"]

ICMP = {4: 1, 6: 58}
_TRANSLATED = IPv6Network("64:ff9b::/96")
_NOBODYS = tuple(
    map(
        ipaddress.ip_network,
        (
            *("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255"),
            *("::", "::1", "fe80::/10", "ff00::/8"),
        ),
    )
)
"""What leaves a sandbox's link for nobody but its host, or for many of whom it is one: docs/network.md."""

_NUMBERS = {Protocol.TCP: (6,), Protocol.UDP: (17,), Protocol.ANY: (6, 17)}


@dataclass(frozen=True)
class Asked:
    """A connection: protocol by number; the port is 0 for those that have none."""

    destination: Address
    protocol: int
    port: int


def decide(policy: NetworkPolicy, asked: Asked) -> tuple[str, bool]:
    """The deciding rule's name, and whether it allows."""
    if any(asked.destination in one for one in _NOBODYS if one.version == asked.destination.version):
        return "egress.host", False
    for rules, allowed in ((policy.deny, False), (policy.allow, True)):
        for rule in rules:
            if _matches(rule, asked) or (not allowed and _matches_translated(rule, asked)):
                return rule.name, allowed
    return "egress.default", policy.egress_allowed


def _matches(rule: Rule, asked: Asked) -> bool:
    to = not rule.to or any(_holds(peer, asked.destination) for peer in rule.to)
    return to and (not rule.ports or any(_carries(entry, asked) for entry in rule.ports))


def _matches_translated(rule: Rule, asked: Asked) -> bool:
    """A network with NAT64 takes what follows the prefix for an address of IPv4 (RFC 6052 §2.1)."""
    if asked.destination not in _TRANSLATED:
        return False
    inner = ipaddress.IPv4Address(int(asked.destination) & 0xFFFFFFFF)
    ports = not rule.ports or any(_carries(entry, asked) for entry in rule.ports)
    return ports and any(_holds(peer, inner) for peer in rule.to)


def _holds(peer: Peer, destination: Address) -> bool:
    return destination in _network(peer.cidr) and not any(
        destination in _network(text) for text in peer.excepted
    )


@lru_cache(4096)
def _network(text: str) -> IPv4Network | IPv6Network:
    """Mapped networks are IPv4 networks."""
    network = ipaddress.ip_network(text)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _carries(entry: Ports, asked: Asked) -> bool:
    if entry.protocol is Protocol.ICMP:
        return asked.protocol == ICMP[asked.destination.version]
    if entry.first is None:
        return entry.protocol is Protocol.ANY or asked.protocol in _NUMBERS[entry.protocol]
    last = entry.first if entry.last is None else entry.last
    return asked.protocol in _NUMBERS[entry.protocol] and entry.first <= asked.port <= last


# Networks that overlap, nest, touch, and lie at the ends of the families.


def _within(base: str, longest: int) -> st.SearchStrategy[str]:
    network = ipaddress.ip_network(base)
    bits = network.max_prefixlen

    def cut(drawn: tuple[int, int]) -> str:
        offset, prefix = drawn
        first = (int(network.network_address) + offset) >> (bits - prefix) << (bits - prefix)
        return f"{type(network.network_address)(first)}/{prefix}"

    offsets = st.integers(0, network.num_addresses - 1)
    return st.tuples(offsets, st.integers(longest, bits)).map(cut)


_IPV4 = _within("10.0.0.0/27", 24) | st.sampled_from(
    ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "0.0.0.0", "255.255.255.255", "255.255.255.254/31", "10.0.0.9"]
)
_IPV6 = _within("2001:db8::/123", 120) | st.sampled_from(
    [
        *("::/0", "::/1", "8000::/1", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::9"),
        *("::ffff:10.0.0.0/120", "::ffff:0:0/96", "::ffff:10.0.0.9", "::fffe:0:0/95"),
    ]
)
_PORT = st.sampled_from([0, 1, 21, 22, 23, 52, 53, 54, 79, 80, 81, 442, 443, 444, 65534, 65535])


def _peers(networks: st.SearchStrategy[str]) -> st.SearchStrategy[Peer]:
    return st.builds(Peer, networks, st.lists(networks, max_size=4).map(tuple))


@st.composite
def _ports(draw: st.DrawFn) -> Ports:
    protocol = draw(st.sampled_from(Protocol))
    if protocol is Protocol.ICMP or draw(st.booleans()):
        return Ports(protocol)
    first, last = sorted((draw(_PORT), draw(_PORT)))
    return Ports(protocol, first, draw(st.sampled_from([None, last])))


@st.composite
def policies(draw: st.DrawFn) -> NetworkPolicy:
    """Policies of a few rules that get in each other's way."""

    def rules(kind: str) -> tuple[Rule, ...]:
        peers = st.lists(_peers(_IPV4) | _peers(_IPV6), max_size=4).map(tuple)
        ports = st.lists(_ports(), max_size=3).map(tuple)
        parts = draw(st.lists(st.tuples(peers, ports), max_size=3))
        return tuple(
            Rule(f"egress.{kind}.{at}", f"/network/egress/{kind}/{at}", *part)
            for at, part in enumerate(parts)
        )

    return NetworkPolicy(egress_allowed=draw(st.booleans()), deny=rules("deny"), allow=rules("allow"))


def edges(policy: NetworkPolicy) -> list[Address]:
    """The first and last address of all networks in `policy`, and those beside them, without mapped ones.

    Those of IPv4 also as NAT64 writes them.
    """
    found = {ipaddress.ip_address("10.0.0.77"), ipaddress.ip_address("2001:db8::77")}
    for rule in (*policy.deny, *policy.allow):
        for text in (text for peer in rule.to for text in (peer.cidr, *peer.excepted)):
            network = _network(text)
            for number in (int(network.network_address), int(network.broadcast_address)):
                beside = (number - 1, number, number + 1)
                kind = type(network.network_address)
                found |= {kind(one) for one in beside if 0 <= one < 1 << network.max_prefixlen}
    found |= {_TRANSLATED[int(one)] for one in tuple(found) if one.version == 4}
    return sorted(
        (one for one in found if not (isinstance(one, IPv6Address) and one.ipv4_mapped is not None)),
        key=lambda one: (one.version, int(one)),
    )


def port_edges(policy: NetworkPolicy) -> list[int]:
    """The ports at and beside the ends of all ranges in `policy`."""
    ends = {53, 80, 443}
    for rule in (*policy.deny, *policy.allow):
        for entry in rule.ports:
            ends |= {port for port in (entry.first, entry.last) if port is not None}
    return sorted({one for end in ends for one in (end - 1, end, end + 1) if 0 <= one <= 65535})
