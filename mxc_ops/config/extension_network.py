"""`mxcOps.network` and `mxcOps.portMappings`: their shapes and what holds within them.

How they go together with the rest of the network is for `mxc_ops.policy.network`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backends.errors import Problem
from mxc_ops.config import wording
from mxc_ops.config.models.kinds import (
    PORT,
    TEXT,
    TEXTS,
    Shape,
    choice,
    either,
    list_of,
    required,
    section,
    text,
)
from mxc_ops.config.rules_egress import check_port_range, check_rule
from mxc_ops.policy.network_values import (
    pattern_fault,
    private_fault,
    read_network,
    shown,
    suggested_pattern,
)
from mxc_ops.policy.port_mappings import mapping_faults

__all__ = ["SHAPES", "check"]

_NAME = "a host's name, '*.' and a name, or '*'"
_METHOD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ-")
_PORTS = list_of(
    either('a port or {"port": …, "endPort": …}', PORT, section("MxcOpsPortRange")), min_length=1
)

SHAPES: dict[str, Shape] = {
    "MxcOpsNetwork": {
        "names": list_of(section("MxcOpsName")),
        "deniedNames": list_of(section("MxcOpsDeniedName")),
        "ceiling": section("MxcOpsCeiling"),
    },
    "MxcOpsName": {
        "name": required(text(1)),
        "ports": _PORTS,
        "methods": list_of(text(1), min_length=1),
        "addresses": list_of(TEXT, min_length=1),
        "inspect": choice("tls", "http", "none"),
    },
    "MxcOpsDeniedName": {"name": required(text(1))},
    "MxcOpsCeiling": {
        "egress": list_of(section("MxcOpsNetworkRule")),
        "names": list_of(section("MxcOpsName")),
    },
    "MxcOpsNetworkRule": {
        "to": list_of(section("MxcOpsNetworkPeer"), min_length=1),
        "ports": list_of(section("MxcOpsNetworkPort"), min_length=1),
    },
    "MxcOpsNetworkPeer": {"cidr": required(TEXT), "except": TEXTS},
    "MxcOpsNetworkPort": {
        "protocol": choice("tcp", "udp", "icmp", "any"),
        "port": PORT,
        "endPort": PORT,
    },
    "MxcOpsPortRange": {"port": required(PORT), "endPort": PORT},
    "MxcOpsPortMapping": {
        "direction": required(choice("toSandbox", "toHost")),
        "protocol": choice("tcp", "udp"),
        "hostAddress": text(1),
        "hostPort": required(PORT),
        "sandboxPort": required(PORT),
    },
}


def check(extension: Mapping[str, Any]) -> Iterator[Problem]:
    """The rules within the two fields of a well-shaped `mxcOps`."""
    network: dict[str, Any] = extension.get("network") or {}
    here = "/mxcOps/network"
    for field in ("names", "deniedNames"):
        for index, entry in enumerate(network.get(field) or ()):
            yield from _check_name(entry, f"{here}/{field}/{index}")
    ceiling: dict[str, Any] = network.get("ceiling") or {}
    for index, rule in enumerate(ceiling.get("egress") or ()):
        yield from check_rule(rule, f"{here}/ceiling/egress/{index}")
    for index, entry in enumerate(ceiling.get("names") or ()):
        yield from _check_name(entry, f"{here}/ceiling/names/{index}")
    mappings: list[dict[str, Any]] = extension.get("portMappings") or []
    here = "/mxcOps/portMappings"
    yield from mapping_faults(mappings, here, [f"{here}/{index}" for index in range(len(mappings))])


# --- names -----------------------------------------------------------------------------------------


def _check_name(entry: dict[str, Any], pointer: str) -> Iterator[Problem]:
    name: str = entry["name"]
    if why := pattern_fault(name):
        meant = suggested_pattern(name)
        fix = f'write "name": "{meant}"' if meant else ""
        message = f"{shown(name)}: {why}"
        yield Problem("invalid_value", f"{pointer}/name", message, expected=_NAME, fix=fix)
    ports: list[int | dict[str, Any]] = entry.get("ports") or []
    for index, port in enumerate(ports):
        if isinstance(port, dict):
            yield from check_port_range(port, f"{pointer}/ports/{index}")
    methods: list[str] = entry.get("methods") or []
    for index, method in enumerate(methods):
        if not _METHOD.issuperset(method):
            yield Problem(
                "invalid_value",
                f"{pointer}/methods/{index}",
                f"{wording.shown(method)} is not a method of HTTP in capitals",
                expected="a method such as 'GET'",
            )
    if methods and not _is_all_http(entry):
        yield Problem(
            "conflicting_fields",
            f"{pointer}/methods",
            "methods are seen in plain HTTP only, and other ports of this name are reached without it",
            expected='"inspect": "http", or port 80 alone and no \'inspect\'',
            fix="add \"ports\": [80], or remove 'methods'",
        )
    for index, cidr in enumerate(entry.get("addresses") or ()):
        yield from _check_addresses(cidr, f"{pointer}/addresses/{index}")


def _is_all_http(entry: dict[str, Any]) -> bool:
    inspect: str | None = entry.get("inspect")
    only_80: tuple[Any, ...] = (80, {"port": 80}, {"port": 80, "endPort": 80})
    return inspect == "http" or (
        inspect is None and all(port in only_80 for port in entry.get("ports") or (0,))
    )


def _check_addresses(cidr: str, pointer: str) -> Iterator[Problem]:
    network = read_network(cidr)
    if isinstance(network, Problem):
        yield Problem(network.code, pointer, network.message, expected=network.expected, fix=network.fix)
    elif why := private_fault(cidr):
        expected = "a network of other hosts that is not public, such as 10.0.0.0/8 or fd00::/8"
        yield Problem("invalid_value", pointer, why, expected=expected)
