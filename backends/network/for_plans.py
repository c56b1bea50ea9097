"""The part that a network has in a backend's facts and plan. Pure, but for `observe_for`.

Nothing more is imported for a sandbox without a network, which is most of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from backends.frozen import replace
from backends.guest_etc import ETC_FILES
from backends.network.policy import Direction, NetworkPolicy

if TYPE_CHECKING:
    from backends.network.facts import NetworkFacts
    from backends.network.plan import NetworkPlan

__all__ = [
    "as_dict",
    "etc_files",
    "how_held",
    "kept",
    "observe_for",
    "plan_for",
    "proxy_variables",
    "with_proxy",
]


def observe_for(policy: NetworkPolicy, *, root: bool) -> NetworkFacts | None:
    """What the network depends on; None for a sandbox that has none."""
    if policy.is_isolated:
        return None
    from backends.network.facts import observe_network

    return observe_network(uplink=policy.needs_uplink, root=root)


def plan_for(
    policy: NetworkPolicy, facts: NetworkFacts | None, *, root: bool, routed: bool = False
) -> NetworkPlan | None:
    """See `backends.network.plan.plan_network`; None for a sandbox without a network."""
    if facts is None:
        return None
    from backends.network.plan import plan_network

    return plan_network(policy, facts, root=root, routed=routed)


def etc_files(network: NetworkPlan | None) -> Mapping[str, str]:
    """The files of /etc that the sandbox has."""
    if network is None or not network.nameservers:
        return ETC_FILES
    return {**ETC_FILES, "/etc/resolv.conf": network.resolv_conf}


def with_proxy(
    entries: tuple[tuple[str, str], ...], network: NetworkPlan | None, *, empty_no_proxy: bool
) -> tuple[tuple[str, str], ...]:
    """The environment of a workload: where there is a proxy, it is told of it (policy-semantics.md §3.3)."""
    if network is None or not network.proxy_url:
        return entries
    from backends.network.environment import proxy_environment

    return proxy_environment(entries, network.proxy_url, empty_no_proxy=empty_no_proxy)


def proxy_variables(
    network: NetworkPlan | None, environment: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    """Those of a workload's environment that tell it of the proxy; none without one."""
    if network is None or not network.proxy_url:
        return ()
    from backends.network.environment import is_proxy_variable

    return tuple(entry for entry in environment if is_proxy_variable(entry[0]))


def kept(network: NetworkPlan | None) -> NetworkPlan | None:
    """The same, of a sandbox that is kept."""
    return None if network is None else replace(network, kept=True)


def how_held(network: NetworkPlan | None, nothing: str) -> Iterator[tuple[str, str]]:
    """(what, by what mechanism) of a result's `enforced`; `nothing` is how a sandbox without one is held."""
    if network is None:
        yield "network", nothing
        return
    where = "a gate between machine and host" if network.routed else "a namespace that it has no rights over"
    yield "network", f"nft rules in {where}; {network.way_out}"
    if network.filters:
        yield "network names", "a filtering proxy: the name that is asked for, and its address"
    for mapping in network.policy.mappings:
        host, inside = f"{mapping.host_address}:{mapping.host_port}", f"the sandbox's {mapping.sandbox_port}"
        ends = (host, inside) if mapping.direction is Direction.TO_SANDBOX else (inside, host)
        yield f"port mapping ({mapping.protocol.value})", f"{ends[0]} to {ends[1]}, by a process of ours"


def as_dict(network: NetworkPlan | None) -> dict[str, object] | None:
    """JSON-safe."""
    if network is None:
        return None
    from backends.network.arrange import Given, layout
    from backends.network.ruleset import ruleset

    return {
        "wayOut": network.way_out,
        "rules": ruleset(network.policy, layout(network, Given(number=1))).text,
        "proxy": network.proxy_url or None,
        "nameservers": list(network.nameservers),
        "listens": [
            {
                "kind": opening.kind.value,
                "where": "sandbox" if opening.inside else "host",
                "address": opening.address,
                "port": opening.port,
            }
            for opening in network.openings
        ],
    }
