"""A network's plan, and what is known only at launch → the steps of its gate and its rules. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface, ip_interface

from backends.frozen import frozen
from backends.inside.agent_protocol import GuestNetwork
from backends.network.facts import Bridge
from backends.network.layout import LocalLayout, RoutedLayout
from backends.network.plan import (
    DNS_PORT,
    GATEWAY,
    GATEWAY6,
    GUEST,
    GUEST6,
    PROXY_PORT,
    REDIRECT_PORT,
    TAP,
    UPLINK,
    HelperUplink,
    NetworkPlan,
)
from backends.network.steps import Address, Await, Helper, Link, Pair, Route, Setting, Step

__all__ = ["Given", "after_rules", "before_rules", "bridge_places", "guest_network", "layout"]

_HELPER_MS = 10_000
_GUEST_PREFIX, _GUEST_PREFIX6 = 29, 64
_ANY, _ANY6 = "0.0.0.0", "::"  # noqa: S104 - a route's destination


@frozen
class Given:
    """`number` is which of the bridge's places the sandbox has, `outside` its link's name on the host.

    `groups`: first and last group whose programs may send echo requests.
    """

    number: int = 0
    outside: str = ""
    groups: tuple[int, int] = (0, 2**31 - 1)


def bridge_places(bridge: Bridge) -> tuple[int, int]:
    """(first, count) of the numbers that sandboxes may have on it: every usable address but the bridge's."""
    return 1, ip_interface(bridge.address).network.num_addresses - 3


def layout(plan: NetworkPlan, given: Given) -> LocalLayout | RoutedLayout:
    """Where the rules are loaded."""
    proxied = plan.filters
    ports = (PROXY_PORT, REDIRECT_PORT, DNS_PORT) if proxied else (None, None, None)
    uplink = UPLINK if plan.uplink is not None else ""
    if not plan.routed:
        return LocalLayout(
            uplink=uplink,
            own=_own(plan, given),
            host_addresses=plan.host_addresses,
            proxy_port=ports[0],
            redirect_port=ports[1],
            dns_port=ports[2],
        )
    forwards = {
        ("tcp" if opening.is_stream else "udp", opening.port)
        for opening in plan.openings
        if opening.inside and opening.target is not None
    }
    return RoutedLayout(
        tap=TAP,
        uplink=uplink,
        guest=(GUEST, GUEST6),
        gateway=(GATEWAY, GATEWAY6),
        host_addresses=plan.host_addresses,
        proxy_port=ports[0],
        redirect_port=ports[1],
        dns_port=ports[2],
        forwards=tuple(sorted(forwards)),
    )


def before_rules(plan: NetworkPlan, given: Given) -> Iterator[Step]:
    """What must be there when the rules are loaded; nothing leads out yet."""
    if plan.has_ipv6:
        # Nobody else gives addresses on these links: one that is tried out first does not work at once.
        yield Setting("net/ipv6/conf/default/accept_dad", "0")
        yield Setting("net/ipv6/conf/default/dad_transmits", "0")
        yield Setting("net/ipv6/conf/default/accept_ra", "0")
    yield Link("lo")
    if plan.routed:
        yield Setting("net/ipv4/ip_forward", "1")
        # A guest is one neighbour, and would be told of one denial a second.
        yield Setting("net/ipv4/icmp_ratemask", "0")
        if plan.has_ipv6:
            yield Setting("net/ipv6/icmp/ratelimit", "0")
            yield Setting("net/ipv6/conf/all/forwarding", "1")
    else:
        yield Setting("net/ipv4/ping_group_range", f"{given.groups[0]} {given.groups[1]}")


def after_rules(plan: NetworkPlan, given: Given) -> Iterator[Step]:
    """What leads out."""
    if plan.routed:
        yield Address(TAP, GATEWAY, _GUEST_PREFIX)
        if plan.has_ipv6:
            yield Address(TAP, GATEWAY6, _GUEST_PREFIX6)
        yield Link(TAP)
    if isinstance(plan.uplink, HelperUplink):
        yield Helper(plan.uplink.argv)
        yield Await(UPLINK, _HELPER_MS, plan.uplink.ipv4, plan.uplink.ipv6)
    elif plan.uplink is not None:
        yield from _attach(plan, plan.uplink, given)
    elif plan.filters and not plan.routed:
        # Nothing leads out, but what is redirected must have had a route before.
        yield Route(_ANY, 0, "", "lo", local=True)
        if plan.has_ipv6:
            yield Route(_ANY6, 0, "", "lo", local=True)


def guest_network(plan: NetworkPlan) -> GuestNetwork:
    """How a machine behind its gate has its card."""
    ipv6 = (GUEST6, _GUEST_PREFIX6, GATEWAY6) if plan.has_ipv6 else None
    return GuestNetwork((GUEST, _GUEST_PREFIX, GATEWAY), ipv6, plan.resolv_conf)


def _attach(plan: NetworkPlan, bridge: Bridge, given: Given) -> Iterator[Step]:
    yield Pair(UPLINK, given.outside)
    yield Link(given.outside, bridge.name, on_host=True, isolated=True)
    places = _places(plan, given)
    for place in places:
        yield Address(UPLINK, str(place.ip), place.network.prefixlen)
    yield Link(UPLINK)
    for place in places:
        gateway = bridge.address if place.version == 4 else bridge.address6
        yield Route(_ANY if place.version == 4 else _ANY6, 0, str(ip_interface(gateway).ip), UPLINK)


def _own(plan: NetworkPlan, given: Given) -> tuple[str, ...]:
    if isinstance(plan.uplink, HelperUplink):
        return plan.uplink.inside
    return tuple(str(one.ip) for one in _places(plan, given))


def _places(plan: NetworkPlan, given: Given) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """The sandbox's addresses on the bridge; with a helper there are none there."""
    if not isinstance(plan.uplink, Bridge):
        return ()
    written = [address for family, address in ((4, plan.uplink.address), (6, plan.uplink.address6))
               if address and family in plan.carries]  # fmt: skip
    return tuple(_place(ip_interface(address), given.number) for address in written)


def _place(bridge: IPv4Interface | IPv6Interface, number: int) -> IPv4Interface | IPv6Interface:
    after_bridge = number >= int(bridge.ip) - int(bridge.network.network_address)
    return ip_interface(
        f"{bridge.network.network_address + number + after_bridge}/{bridge.network.prefixlen}"
    )
