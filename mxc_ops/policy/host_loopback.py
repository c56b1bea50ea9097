"""Ways between the host and a sandbox: only ports that are named are opened (pure).

Source: policy-semantics.md §3.2, upstream-gaps.md N1 and N2. `ingress.hostLoopback` opens what of the host's
loopback is mapped, both ways; `ingress.default` what is mapped of its other addresses. A sandbox that is kept
may have the former without a mapping: its owner opens ports later, one by one.
"""

from __future__ import annotations

from backends.base import SandboxRequest
from backends.errors import Problem
from backends.features import Asked, Feature
from backends.frozen import replace
from backends.network.policy import Direction, NetworkPolicy, PortMapping
from mxc_ops.policy.network_values import is_loopback

__all__ = ["POINTER", "apart_from_ports", "asks_for_ports", "feature_of", "unused_opening"]

POINTER = "/network/ingress/hostLoopback"

_LEGACY = "/network/allowLocalNetwork"
_EXAMPLES = {
    Feature.HOST_LOOPBACK: '{"direction": "toSandbox", "hostPort": 8080, "sandboxPort": 80}',
    Feature.INGRESS: (
        '{"direction": "toSandbox", "hostAddress": "192.0.2.10", "hostPort": 8080, "sandboxPort": 80}'
    ),
}
_PLACES = {Feature.HOST_LOOPBACK: "the host's loopback", Feature.INGRESS: "the host's other addresses"}


def asks_for_ports(request: SandboxRequest) -> bool:
    return any(asked.feature is Feature.HOST_LOOPBACK for asked in request.asked)


def apart_from_ports(request: SandboxRequest) -> SandboxRequest:
    """What is left to be asked of a backend when a session opens ports."""
    asked = tuple(one for one in request.asked if one.feature is not Feature.HOST_LOOPBACK)
    return request if len(asked) == len(request.asked) else replace(request, asked=asked)


def feature_of(mapping: PortMapping) -> Feature:
    """What must be allowed for a mapping: `HOST_LOOPBACK` or `INGRESS`."""
    loopback = mapping.direction is Direction.TO_HOST or is_loopback(mapping.host_address)
    return Feature.HOST_LOOPBACK if loopback else Feature.INGRESS


def unused_opening(asked: Asked, network: NetworkPolicy) -> Problem | None:
    """Why what is asked for cannot be given as it stands: it opens a way, and no named port uses it."""
    if asked.feature not in _EXAMPLES:
        return None
    if any(feature_of(mapping) is asked.feature for mapping in network.mappings):
        return None
    message = f"{asked.value} opens the way from {_PLACES[asked.feature]}, and no port is mapped there"
    example = f'"mxcOps": {{"portMappings": [{_EXAMPLES[asked.feature]}]}}'
    if asked.pointer == _LEGACY:
        fix = (
            "set network.allowLocalNetwork to false (in old documents it often only acknowledges what is so"
            f" anyway), or name the ports: {example}"
        )
    elif asked.pointer.startswith("/"):
        fix = f"name the ports: {example}; or remove {asked.pointer}"
    else:
        fix = 'name the ports: network(publish=["8080:80"]); only a session opens some later'
    return Problem("allow_without_mapping", asked.pointer, message, expected="a mapped port", fix=fix)
