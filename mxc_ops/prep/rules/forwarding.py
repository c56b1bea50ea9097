"""Whether the host forwards IPv6: a kernel setting that can cost a host its own way out. Pure.

A host that forwards takes no routes from router advertisements, unless its interface is told to (accept_ra
is 2: Linux, ip-sysctl), and forgets those that it has. So it is set only where none comes from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mxc_ops.prep.decision import Decision, Query, nothing_to_do
from mxc_ops.prep.rules.kernel import decide_setting, setting_queries

__all__ = ["decide", "queries"]

_BY_A_PROGRAM = "0"
"""What accept_ra is where NetworkManager or systemd-networkd takes advertisements rather than the kernel."""


def queries(key: str, wanted: str, kernel_default: str) -> tuple[Query, ...]:
    """Those of the setting, and how the host came by its routes."""
    return *setting_queries(key, wanted, kernel_default), Query("network.Ipv6Routes")


def decide(
    seen: str | None,
    configured: Sequence[Mapping[str, str]],
    texts: Mapping[str, str],
    existing: list[str],
    routes: Mapping[str, Any],
    *,
    key: str,
    wanted: str,
    kernel_default: str,
) -> Decision:
    """As `kernel.decide_setting`, where there is a way out that stays.

    Parameters
    ----------
    routes: see `facts.network.Ipv6Routes`.
    """
    decision = decide_setting(
        seen, configured, texts, existing, key=key, wanted=wanted, kernel_default=kernel_default
    )
    if not decision.commands:
        return decision
    advertised: Mapping[str, str] = routes["advertised"]
    if seen == wanted and advertised:
        # Whoever switched it on has seen to that; what will be after a restart only they know.
        return nothing_to_do(f"{seen}, until the next start")
    if not routes["leads"]:
        return nothing_to_do(f"{seen}: this host has no way out in IPv6")
    if advertised:
        return nothing_to_do(f"{seen}: left as it is", notice=_notice(advertised, key, wanted))
    return decision


def _notice(advertised: Mapping[str, str], key: str, wanted: str) -> str:
    names = " and ".join(advertised)
    told = [
        f"sandboxes of root's get no IPv6: the host has its own at {names} from router advertisements, which "
        "it may pass over once it forwards"
    ]
    path = "/etc/sysctl.d/60-accept-ra.conf"
    lines = [
        f"net/ipv6/conf/{device}/accept_ra = 2"
        for device, value in advertised.items()
        if value != _BY_A_PROGRAM
    ]
    if lines:
        words = " ".join(f"'{line}'" for line in lines)
        keep = f"printf '%s\\n' {words} >> {path} && sysctl -p {path}"
        told.append(f"to have both: {keep}, and prepare again")
    taken = [device for device, value in advertised.items() if value == _BY_A_PROGRAM]
    if taken:
        told.append(
            f"a program takes those at {' and '.join(taken)}: NetworkManager goes on, systemd-networkd "
            f"where its .network file has IPv6AcceptRA=yes; then: sysctl -w {key}={wanted}, and prepare again"
        )
    return "; ".join(told)
