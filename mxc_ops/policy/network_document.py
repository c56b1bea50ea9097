"""What a document says to have a `NetworkPolicy`: the way back from `mxc_ops.policy.network`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backends.features import Feature
from backends.network.policy import NameRule, NetworkPolicy, Peer, Ports, Protocol, ProxyEndpoint, Rule
from mxc_ops.policy.host_loopback import feature_of
from mxc_ops.policy.port_mappings import written_mapping

__all__ = ["extension_parts", "network_section", "runtime_config"]

_WEB = ((80, 80), (443, 443))


def network_section(policy: NetworkPolicy, *, host_loopback: bool) -> dict[str, Any]:
    """The section `network`; `host_loopback`: open that also without a mapped port."""
    egress: dict[str, Any] = {"default": "allow"} if policy.egress_allowed else {}
    for field, rules in (("allow", policy.allow), ("deny", policy.deny)):
        if rules:
            egress[field] = [_rule(rule) for rule in rules]
    opened = {feature_of(mapping) for mapping in policy.mappings}
    ingress: dict[str, Any] = {"default": "allow"} if Feature.INGRESS in opened else {}
    if host_loopback or Feature.HOST_LOOPBACK in opened:
        ingress["hostLoopback"] = "allow"
    return _present({"egress": egress, "ingress": ingress})


def runtime_config(policy: NetworkPolicy) -> dict[str, Any]:
    return {} if policy.proxy is None else {"networkProxy": _url(policy.proxy)}


def extension_parts(policy: NetworkPolicy) -> dict[str, Any]:
    """The fields of `mxcOps`."""
    ceiling = {
        "egress": [_rule(rule) for rule in policy.ceiling.allow],
        "names": [_name(rule) for rule in policy.ceiling.names],
    }
    network = {
        "names": [_name(rule) for rule in policy.names],
        "deniedNames": [{"name": rule.pattern} for rule in policy.denied_names],
        "ceiling": _present(ceiling),
    }
    mappings = [written_mapping(mapping) for mapping in policy.mappings]
    return _present({"network": _present(network), "portMappings": mappings})


def _rule(rule: Rule) -> dict[str, Any]:
    return _present(
        {"to": [_peer(peer) for peer in rule.to], "ports": [_ports(ports) for ports in rule.ports]}
    )


def _peer(peer: Peer) -> dict[str, Any]:
    return {"cidr": peer.cidr, **_present({"except": list(peer.excepted)})}


def _ports(ports: Ports) -> dict[str, Any]:
    entry: dict[str, Any] = {} if ports.protocol is Protocol.ANY else {"protocol": ports.protocol.value}
    if ports.first is not None:
        entry |= {"port": ports.first}
        if ports.last != ports.first:
            entry |= {"endPort": ports.last}
    return entry


def _name(rule: NameRule) -> dict[str, Any]:
    return _present(
        {
            "name": rule.pattern,
            "ports": _ranges(rule.ports) if rule.ports != _WEB else [],
            "methods": list(rule.methods),
            "addresses": list(rule.addresses),
            "inspect": rule.inspection.value if rule.inspection else "",
        }
    )


def _ranges(ports: Sequence[tuple[int, int]]) -> list[Any]:
    return [first if first == last else {"port": first, "endPort": last} for first, last in ports]


def _url(proxy: ProxyEndpoint) -> str:
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    return f"{proxy.scheme}://{host}:{proxy.port}"


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}
