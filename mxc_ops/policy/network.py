"""From a document in the newest shape to its `NetworkPolicy`, with every refusal. Pure.

Rules: policy-semantics.md §3. Well-shaped documents only: what is wrong within one entry is found when a
document is loaded; here is what does not go together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from backends.errors import PolicyRefused, Problem
from backends.features import Feature
from backends.network.policy import (
    Ceiling,
    Inspection,
    NameRule,
    NetworkPolicy,
    Peer,
    PortMapping,
    Ports,
    Protocol,
    ProxyEndpoint,
    Rule,
)
from mxc_ops.config.losses import origin_of
from mxc_ops.policy.host_loopback import feature_of
from mxc_ops.policy.network_checks import contradictions, effective
from mxc_ops.policy.network_values import normalised, pattern_of, proxy_address, proxy_fault
from mxc_ops.policy.port_mappings import read_mapping

__all__ = ["EVERY_PORT", "endpoint", "network_policy", "read_policy"]

EVERY_PORT = ((1, 65535),)

_NUMERIC = {"localhost": "127.0.0.1"}
_OPENINGS = {
    Feature.HOST_LOOPBACK: ("hostLoopback", '"network": {"ingress": {"hostLoopback": "allow"}}'),
    Feature.INGRESS: ("default", '"network": {"ingress": {"default": "allow"}}'),
}

Place = Callable[[str], str]
"""From a pointer into the newest shape to where the user wrote it."""


def network_policy(canonical: Mapping[str, Any]) -> NetworkPolicy:
    """What is to be held: `read_policy`, as few rules as it takes (see `effective`)."""
    return effective(read_policy(canonical))


def read_policy(canonical: Mapping[str, Any]) -> NetworkPolicy:
    """What a document, as `canonicalise` answers it, says of its network.

    Rules are called ``egress.allow.0``, ``egress.deny.0``, ``names.0``, ``deniedNames.0``,
    ``ceiling.egress.0``, ``ceiling.names.0``, ``portMappings.0``; pointers are of the user's document. Raises
    `PolicyRefused` with everything that does not go together.
    """
    origins: Mapping[str, str] = canonical.get("origins", {})

    def place(pointer: str) -> str:
        return origin_of(origins, pointer)

    network: Mapping[str, Any] = canonical.get("network", {})
    egress: Mapping[str, Any] = network.get("egress", {})
    ours: Mapping[str, Any] = canonical.get("mxcOps", {})
    names: Mapping[str, Any] = ours.get("network", {})
    ceiling: Mapping[str, Any] = names.get("ceiling", {})
    mappings = _mappings(ours.get("portMappings", ()), place)
    problems = list(_unopened(mappings, network.get("ingress", {})))
    proxy = None
    if (url := canonical.get("runtimeConfig", {}).get("networkProxy")) is not None:
        found = endpoint(url, place("/runtimeConfig/networkProxy"))
        if isinstance(found, Problem):
            problems.append(found)
        else:
            proxy = found
    policy = NetworkPolicy(
        egress_allowed=egress.get("default") == "allow",
        deny=_rules(egress.get("deny", ()), "egress.deny", "/network/egress/deny", place),
        allow=_rules(egress.get("allow", ()), "egress.allow", "/network/egress/allow", place),
        names=_names(names.get("names", ()), "names", "/mxcOps/network/names", place),
        denied_names=_names(
            names.get("deniedNames", ()), "deniedNames", "/mxcOps/network/deniedNames", place, EVERY_PORT
        ),
        mappings=mappings,
        proxy=proxy,
        ceiling=Ceiling(
            _rules(ceiling.get("egress", ()), "ceiling.egress", "/mxcOps/network/ceiling/egress", place),
            _names(ceiling.get("names", ()), "ceiling.names", "/mxcOps/network/ceiling/names", place),
        ),
    )
    problems.extend(contradictions(policy))
    if problems:
        raise PolicyRefused(problems)
    return policy


def endpoint(url: str, pointer: str) -> ProxyEndpoint | Problem:
    """The caller's proxy, or why it is none that a sandbox can be given; nothing of the text is repeated."""
    address = proxy_address(url)
    if isinstance(address, str):
        return Problem("invalid_value", pointer, address, expected="http://127.0.0.1:PORT")
    code, message, fix = proxy_fault(address)
    if code:
        return Problem(code, pointer, message, expected="http://127.0.0.1:PORT", fix=fix)
    return ProxyEndpoint(pointer, address.scheme, _NUMERIC.get(address.host, address.host), address.port)


# --- rules -----------------------------------------------------------------------------------------


def _rules(entries: Sequence[Mapping[str, Any]], name: str, where: str, place: Place) -> tuple[Rule, ...]:
    return tuple(
        Rule(
            f"{name}.{index}",
            place(f"{where}/{index}"),
            tuple(map(_peer, entry.get("to", ()))),
            tuple(map(_ports, entry.get("ports", ()))),
        )
        for index, entry in enumerate(entries)
    )


def _peer(entry: Mapping[str, Any]) -> Peer:
    cidr, excepted = normalised(entry["cidr"], tuple(entry["except"]) if "except" in entry else ())
    return Peer(cidr, excepted)


def _ports(entry: Mapping[str, Any]) -> Ports:
    first: int | None = entry.get("port")
    return Ports(Protocol(entry.get("protocol", "any")), first, entry.get("endPort", first))


def _names(
    entries: Sequence[Mapping[str, Any]],
    name: str,
    where: str,
    place: Place,
    every: tuple[tuple[int, int], ...] = ((80, 80), (443, 443)),
) -> tuple[NameRule, ...]:
    """`every`: the ports that are meant where none is said."""
    return tuple(
        NameRule(
            f"{name}.{index}",
            place(f"{where}/{index}"),
            pattern_of(entry["name"]) or entry["name"],
            tuple(map(_range, entry.get("ports", ()))) or every,
            tuple(entry.get("methods", ())),
            tuple(normalised(cidr)[0] for cidr in entry.get("addresses", ())),
            Inspection(entry["inspect"]) if "inspect" in entry else None,
        )
        for index, entry in enumerate(entries)
    )


def _range(port: int | Mapping[str, int]) -> tuple[int, int]:
    return (port, port) if isinstance(port, int) else (port["port"], port.get("endPort", port["port"]))


# --- mapped ports ----------------------------------------------------------------------------------


def _mappings(entries: Sequence[Mapping[str, Any]], place: Place) -> tuple[PortMapping, ...]:
    return tuple(
        read_mapping(entry, f"portMappings.{index}", place(f"/mxcOps/portMappings/{index}"))
        for index, entry in enumerate(entries)
    )


def _unopened(mappings: Sequence[PortMapping], ingress: Mapping[str, Any]) -> Iterator[Problem]:
    for mapping in mappings:
        field, addition = _OPENINGS[feature_of(mapping)]
        if ingress.get(field) != "allow":
            yield Problem(
                "mapping_without_allow",
                mapping.pointer,
                f"the port is mapped, and network.ingress.{field} does not allow it",
                expected=f"network.ingress.{field} 'allow'",
                fix=f'add {addition} (before version 0.8: "network": {{"allowLocalNetwork": true}})',
            )
