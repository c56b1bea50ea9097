"""The base chains of a namespace between a machine's tap and the uplink (`RoutedLayout`). Pure.

What comes from the tap is judged at hook prerouting, for only there it can still be redirected; hook forward
then lets through what carries a mark that the uplink is open to. Answers are judged at hook forward.
"""

from __future__ import annotations

from backends.network.egress import HOST, networks, spoofed
from backends.network.layout import RoutedLayout
from backends.network.matching import address_set, destination, port_set
from backends.network.policy import Direction, NetworkPolicy, PortMapping
from backends.network.ranges import FAMILIES, KEYWORD, merged
from backends.network.redirection import redirecting_dns, translation
from backends.network.verdicts import ADVERTISEMENTS, INGRESS, SOURCE_ROUTED, Ledger, chain, notices

__all__ = ["base_chains", "inner_chains", "mapped_ports", "proxy_addresses"]

_ANSWERS = "ct direction reply ct state established"


def mapped_ports(policy: NetworkPolicy) -> tuple[PortMapping, ...]:
    """The mappings whose connections this namespace opens to the machine."""
    return tuple(mapping for mapping in policy.mappings if mapping.direction is Direction.TO_SANDBOX)


def proxy_addresses(layout: RoutedLayout) -> dict[int, str]:
    """The first of our addresses, by family."""
    found: dict[int, str] = {}
    for address in layout.gateway:
        found.setdefault(6 if ":" in address else 4, address)
    return found


def base_chains(layout: RoutedLayout, ledger: Ledger, redirect_mark: str | None) -> list[str]:
    """All that is hooked. `redirect_mark`: None: nothing is redirected."""
    chains = [_prerouting(layout, ledger), _input(layout, ledger), _forward(layout, ledger)]
    chains.append(_output(layout, ledger))
    if redirect_mark is not None:
        base = "type nat hook prerouting priority dstnat; policy accept;"
        chains.append(translation(layout, redirect_mark, proxy_addresses(layout), base))
    if layout.uplink:
        chains.append(_masquerade(layout))
    return chains


def inner_chains(layout: RoutedLayout, policy: NetworkPolicy) -> list[str]:
    """``gateway`` judges what is meant for us, ``mappings`` what we open to the machine."""
    open_ports = [f"{what} accept" for what in _services(layout, "ct original proto-dst")]
    mapped: list[str] = []
    guest = networks(layout.guest)
    for mapping in mapped_ports(policy):
        what = f"meta l4proto {mapping.protocol.value} ct original proto-dst {mapping.sandbox_port}"
        where = [destination(family, guest[family]) for family in FAMILIES if guest[family]]
        mapped += [f"{condition} {what} goto {mapping.name}" for condition in where]
    return [
        chain("gateway", [*redirecting_dns(layout), *open_ports, f"goto {HOST}"]),
        chain("mappings", [*mapped, f"goto {INGRESS}"]),
    ]


def _services(layout: RoutedLayout, port: str) -> list[str]:
    """Each protocol with our ports that the machine may use; `port` is what is compared."""
    tcp = [layout.proxy_port, layout.redirect_port, layout.dns_port]
    numbers = {"tcp": tcp, "udp": [layout.dns_port]}
    for protocol, forwarded in layout.forwards:
        numbers[protocol].append(forwarded)
    found = {
        protocol: merged((one, one) for one in ports if one is not None)
        for protocol, ports in numbers.items()
    }
    return [f"meta l4proto {protocol} {port} {port_set(ports)}" for protocol, ports in found.items() if ports]


def _ours(layout: RoutedLayout, side: str) -> list[str]:
    """The conditions that a packet's `side`, saddr or daddr, is one of our addresses on the tap."""
    ours = networks(layout.gateway)
    return [
        f"{KEYWORD[family]} {side} {address_set(family, ours[family])}" for family in FAMILIES if ours[family]
    ]


def _prerouting(layout: RoutedLayout, ledger: Ledger) -> str:
    return chain(
        "prerouting",
        [
            *([f'iifname "{layout.uplink}" accept'] if layout.uplink else []),
            f'iifname != "{layout.tap}" drop',
            *SOURCE_ROUTED,
            ADVERTISEMENTS,
            "ip6 saddr { ::, fe80::/10 } drop",  # its kernel's talk with the link, of no use here
            *spoofed(layout.guest),
            *ledger.known("ct state new,established"),
            "jump screen",
            "ct direction reply goto mappings",
            *[f"{condition} goto gateway" for condition in _ours(layout, "daddr")],
            "goto egress",
        ],
        "type filter hook prerouting priority mangle; policy drop;",
    )


def _input(layout: RoutedLayout, ledger: Ledger) -> str:
    tap = f'iifname "{layout.tap}"'
    services = [
        f"{tap} {where} {what} accept"
        for where in _ours(layout, "daddr")
        for what in _services(layout, "th dport")
    ]
    uplink = f'iifname "{layout.uplink}"'
    return chain(
        "input",
        [
            *services,
            *ledger.passing(f"{tap} {_ANSWERS}"),
            *ledger.passing(f"{tap} ct state related"),
            f"{tap} {ADVERTISEMENTS}",
            f"{tap} goto {HOST}",
            *([f"{uplink} {ADVERTISEMENTS}"] if layout.uplink else []),
            f"goto {INGRESS}",
        ],
        "type filter hook input priority filter; policy drop;",
    )


def _forward(layout: RoutedLayout, ledger: Ledger) -> str:
    inward = f'iifname "{layout.uplink}" oifname "{layout.tap}"'
    outward = f'iifname "{layout.tap}" oifname "{layout.uplink}"'
    between = [
        *ledger.outward(outward),
        *ledger.known(f"{inward} {_ANSWERS}"),
        # Judged at hook prerouting by rules that these replace, or are replaced by: it will be sent again.
        f'iifname "{layout.tap}" {ledger.elsewhere()} drop',
        f'iifname "{layout.tap}" goto {HOST}',
        "jump screen",
        f"{inward} {_ANSWERS} goto egress",
        f"goto {INGRESS}",
    ]
    return chain(
        "forward",
        between if layout.uplink else [],
        "type filter hook forward priority filter; policy drop;",
    )


def _output(layout: RoutedLayout, ledger: Ledger) -> str:
    tap = f'oifname "{layout.tap}"'
    answers = [
        f"{tap} {where} {what} {_ANSWERS} accept"
        for where in _ours(layout, "saddr")
        for what in _services(layout, "th sport")
    ]
    return chain(
        "output",
        [
            *ledger.known(f"{tap} ct state new,established"),
            *answers,
            *notices(tap),
            f"{tap} {ADVERTISEMENTS}",
            *([f'oifname "{layout.uplink}" {ADVERTISEMENTS}'] if layout.uplink else []),
            "jump screen",
            f"{tap} ct direction original goto mappings",
        ],
        "type filter hook output priority filter; policy drop;",
    )


def _masquerade(layout: RoutedLayout) -> str:
    guest = networks(layout.guest)
    lines = [
        f'oifname "{layout.uplink}" {KEYWORD[family]} saddr {address_set(family, guest[family])} masquerade'
        for family in FAMILIES
        if guest[family]
    ]
    return chain("postrouting", lines, "type nat hook postrouting priority srcnat; policy accept;")
