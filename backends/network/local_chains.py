"""The base chains of a sandbox's own namespace (`LocalLayout`). Pure.

Packets are judged at hook output ahead of address translation, and once more looked at when they leave: what
does not carry a mark that the uplink is open to stays, even where rules were replaced between the two.
"""

from __future__ import annotations

from backends.network.egress import networks, spoofed
from backends.network.layout import LocalLayout
from backends.network.matching import address_set
from backends.network.redirection import translation
from backends.network.verdicts import ADVERTISEMENTS, INGRESS, SOURCE_ROUTED, Ledger, chain, notices

__all__ = ["LOOPBACK", "base_chains"]

LOOPBACK = {4: "127.0.0.1", 6: "::1"}
_LOOPBACK_NETWORKS = ("127.0.0.0/8", "::1")


def base_chains(layout: LocalLayout, ledger: Ledger, redirect_mark: str | None) -> list[str]:
    """All that is hooked. `redirect_mark`: None: nothing is redirected."""
    chains = [_output(layout, ledger), _input(layout, ledger), _postrouting(layout, ledger)]
    chains.append(chain("forward", [], "type filter hook forward priority filter; policy drop;"))
    if redirect_mark is not None:
        base = "type nat hook output priority -100; policy accept;"
        chains.append(translation(layout, redirect_mark, LOOPBACK, base))
    return chains


def _loopback(layout: LocalLayout, condition: str) -> list[str]:
    """The sandbox's talk with itself: by address, for any address may be routed to the loopback device."""
    free = networks((*_LOOPBACK_NETWORKS, *layout.own))
    talk = [
        f'{condition} "lo" {keyword} daddr {address_set(family, free[family])} accept'
        for family, keyword in ((4, "ip"), (6, "ip6"))
    ]
    return [*talk, *notices(f'{condition} "lo"')]


def _output(layout: LocalLayout, ledger: Ledger) -> str:
    uplink = f'oifname "{layout.uplink}"'
    return chain(
        "output",
        [
            *SOURCE_ROUTED,
            *ledger.known("ct state new,established"),
            *_loopback(layout, "oifname"),
            *([f"{uplink} {ADVERTISEMENTS}"] if layout.uplink else []),
            "jump screen",
            'oifname != "lo" ct direction reply drop',
            *(spoofed(layout.own, uplink) if layout.uplink and layout.own else []),
            "goto egress",
        ],
        "type filter hook output priority mangle; policy drop;",
    )


def _input(layout: LocalLayout, ledger: Ledger) -> str:
    uplink = f'iifname "{layout.uplink}"'
    answers = "ct direction reply ct state established"
    outside = [
        *ledger.known(f"{uplink} {answers}"),
        f"{uplink} {ADVERTISEMENTS}",
    ]
    return chain(
        "input",
        [
            *(outside if layout.uplink else []),
            *_loopback(layout, "iifname"),
            "jump screen",
            *ledger.passing(f'iifname "lo" {answers}'),
            *([f"{uplink} {answers} goto egress"] if layout.uplink else []),
            f"goto {INGRESS}",
        ],
        "type filter hook input priority filter; policy drop;",
    )


def _postrouting(layout: LocalLayout, ledger: Ledger) -> str:
    uplink = f'oifname "{layout.uplink}"'
    outside = [*ledger.outward(uplink), f"{uplink} {ADVERTISEMENTS}"]
    return chain(
        "postrouting",
        ['oifname "lo" accept', *(outside if layout.uplink else [])],
        "type filter hook postrouting priority filter; policy drop;",
    )
