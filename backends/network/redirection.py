"""What is led to the filtering proxy although it was meant for other addresses: TCP for names, and DNS. Pure.

Only what neither `deny` nor `allow` decides is redirected: a rule for addresses holds for connections by name
as well. The original destination means nothing to the proxy, which goes by the name alone.
"""

from __future__ import annotations

from backends.network.layout import Layout
from backends.network.matching import port_set
from backends.network.ranges import merged
from backends.network.verdicts import chain

__all__ = ["REDIRECT", "redirected", "redirecting_dns", "translation"]

REDIRECT = "egress.redirect"
_DNS = 53


def redirected(layout: Layout, proxy: dict[int, str]) -> list[str]:
    """What sends connections to `REDIRECT` at the end of the rules.

    Parameters
    ----------
    proxy: the proxy's address by family; connections of a family without one are not redirected.
    """
    tcp = layout.redirected if layout.redirect_port is not None else ()
    lines: list[str] = []
    for family in proxy:
        where = f"meta nfproto ipv{family}"
        lines += [f"{where} {line}" for line in redirecting_dns(layout)]
        if tcp:
            ports = port_set(merged((port, port) for port in tcp))
            lines.append(f"{where} meta l4proto tcp ct original proto-dst {ports} goto {REDIRECT}")
    return lines


def redirecting_dns(layout: Layout) -> list[str]:
    """The part of it for questions to name servers, of whichever address."""
    if layout.dns_port is None:
        return []
    return [f"meta l4proto {{ tcp, udp }} ct original proto-dst {_DNS} goto {REDIRECT}"]


def translation(layout: Layout, mark: str, proxy: dict[int, str], base: str) -> str:
    """The nat chain that `base` declares: connections with `mark` get the proxy's address and port."""
    lines: list[str] = []
    for family, address in proxy.items():
        where = f"ct mark {mark} meta nfproto ipv{family}"
        to = f"dnat ip to {address}" if family == 4 else f"dnat ip6 to [{address}]"
        if layout.dns_port is not None:
            lines += [f"{where} {name} dport {_DNS} {to}:{layout.dns_port}" for name in ("tcp", "udp")]
        if layout.redirect_port is not None:
            lines.append(f"{where} meta l4proto tcp {to}:{layout.redirect_port}")
    return chain("redirection", lines, base)
