"""Which addresses a name may lead to. Pure.

A name is whatever its owner's DNS server says at the moment: a name that may be reached and an address that
may be reached are two questions (DNS rebinding). The second one is answered here, for each address by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from backends.frozen import frozen
from backends.network.policy import Ports, Protocol, Rule

__all__ = ["Address", "AddressDecision", "Network", "check", "is_public", "unwrap"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@lru_cache(maxsize=4096)
def _network(cidr: str) -> Network:
    return ip_network(cidr, strict=False)


def _networks(*cidrs: str) -> tuple[Network, ...]:
    return tuple([_network(cidr) for cidr in cidrs])


# Whatever a rule says. The last two lines are the metadata services of clouds, which hand out credentials;
# 168.63.129.16 is a public address that never leaves the machine's own host.
_NEVER: tuple[tuple[str, tuple[Network, ...]], ...] = (
    ("address_unspecified", _networks("0.0.0.0/8", "::/128")),
    ("address_loopback", _networks("127.0.0.0/8", "::1/128")),
    ("address_link_local", _networks("169.254.0.0/16", "fe80::/10")),
    ("address_multicast", _networks("224.0.0.0/4", "ff00::/8")),
    ("address_broadcast", _networks("255.255.255.255/32")),
    ("address_metadata", _networks("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32")),
    ("address_metadata", _networks("fd00:ec2::/32", "fd20:ce::254/128")),
)

# IANA IPv4 Special-Purpose Address Registry, what is not globally reachable (RFC 6890), and 6to4 relays
# (RFC 7526).
_PRIVATE_4 = _networks(
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
)
# Of IPv6 only 2000::/3 is handed out (RFC 4291 2.4), and this of it not: protocols, examples, 6to4.
_PUBLIC_6 = _network("2000::/3")
_PRIVATE_6 = _networks("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")

# Addresses that carry another one in their last 32 bits: mapped and translated (RFC 4291 2.5.5.2, RFC 7915),
# compatible (2.5.5.1), NAT64 (RFC 6052, RFC 8215).
_CARRIERS = _networks("::ffff:0:0/96", "::ffff:0:0:0/96", "::/96", "64:ff9b::/96", "64:ff9b:1::/48")
_LOCAL_NAT64 = _network("64:ff9b:1::/48")
_SIX_TO_FOUR = _network("2002::/16")
_TEREDO = _network("2001::/32")
_ALL_ONES = 0xFFFFFFFF


@frozen
class AddressDecision:
    """`reason` is a code, empty where the address may be connected to; `rule` the one that denies it."""

    reason: str = ""
    rule: str = ""

    @property
    def allowed(self) -> bool:
        return not self.reason


def unwrap(address: Address) -> tuple[Address, ...]:
    """The IPv4 addresses that an IPv6 address stands for; none where it is only itself."""
    if isinstance(address, IPv4Address) or int(address) <= 1:  # `::` and `::1` are only themselves
        return ()
    number = int(address)
    if any(address in carrier for carrier in _CARRIERS):
        return (IPv4Address(number & _ALL_ONES),)
    if address in _SIX_TO_FOUR:
        return (IPv4Address(number >> 80 & _ALL_ONES),)
    if address in _TEREDO:  # the server, and the client behind it, inverted (RFC 4380 4)
        return (IPv4Address(number >> 64 & _ALL_ONES), IPv4Address(number & _ALL_ONES ^ _ALL_ONES))
    return ()


def is_public(address: Address) -> bool:
    """Whether the whole internet means the same host by it."""
    if isinstance(address, IPv4Address):
        return not _within(address, _PRIVATE_4)
    return address in _PUBLIC_6 and not _within(address, _PRIVATE_6)


def check(
    text: str,
    port: int | None,
    *,
    permitted: Sequence[str] = (),
    deny: Sequence[Rule] = (),
    own: Iterable[Network] = (),
) -> AddressDecision:
    """Whether a TCP connection to this address and port may be made.

    Parameters
    ----------
    text: an address literal.
    port: None: of a mere look-up; only what is denied for every port then counts as denied.
    permitted: networks that are not public and allowed all the same.
    deny: rules that win over everything that is permitted.
    own: the addresses of this host, which never are.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return AddressDecision("address_malformed")
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return AddressDecision("address_link_local")
    carried = unwrap(address)
    every = (address, *carried)
    for reason, networks in (*_NEVER, ("address_of_host", tuple(own))):
        if any(_within(each, networks) for each in every):
            return AddressDecision(reason)
    for rule in deny:
        if any(_denies(rule, each, port) for each in every):
            return AddressDecision("address_denied", rule.name)
    ends = every if address in _LOCAL_NAT64 or not carried else carried
    allowed = [_network(cidr) for cidr in permitted]
    if all(is_public(each) or _within(each, allowed) for each in ends):
        return AddressDecision()
    return AddressDecision("address_private")


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _denies(rule: Rule, address: Address, port: int | None) -> bool:
    if rule.ports and not any(_covers(ports, port) for ports in rule.ports):
        return False
    return not rule.to or any(
        address in _network(peer.cidr) and not _within(address, [_network(cidr) for cidr in peer.excepted])
        for peer in rule.to
    )


def _covers(ports: Ports, port: int | None) -> bool:
    if ports.protocol not in (Protocol.ANY, Protocol.TCP):
        return False
    if ports.first is None:
        return True
    last = ports.first if ports.last is None else ports.last
    lowest, highest = (1, 65_535) if port is None else (port, port)
    return ports.first <= lowest and highest <= last
