"""The way from the host's loopback to a sandbox's, which only sandboxes that are kept have (pure).

Source: policy-semantics.md §3.2. What is asked for goes both ways; a session opens, port by port, the one
from the host. Its sandbox reaches nothing of the host.
"""

from __future__ import annotations

from backends.base import SandboxRequest
from backends.features import Feature
from backends.frozen import replace

__all__ = ["POINTER", "apart_from_ports", "asks_for_ports"]

POINTER = "/network/ingress/hostLoopback"


def asks_for_ports(request: SandboxRequest) -> bool:
    return any(asked.feature is Feature.HOST_LOOPBACK for asked in request.asked)


def apart_from_ports(request: SandboxRequest) -> SandboxRequest:
    """What is left to be asked of a backend when a session opens ports."""
    asked = tuple(one for one in request.asked if one.feature is not Feature.HOST_LOOPBACK)
    return request if len(asked) == len(request.asked) else replace(request, asked=asked)
