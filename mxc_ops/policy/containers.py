"""What a document says of a WSL container, and the ports that it maps. Pure. Spec: config-schema.md §3.11."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backends.errors import PolicyRefused, Problem
from backends.frozen import replace
from backends.network.policy import Direction, NetworkPolicy, PortMapping, Protocol
from backends.wslc_settings import PortMapping as ContainerPort
from backends.wslc_settings import WslcSettings

__all__ = ["OWN_FIELDS", "read_settings", "with_ports", "without_ports", "written_section"]

OWN_FIELDS: Mapping[str, str] = {"sharedVm": "shared_vm", "pull": "pull"}
"""Fields of ``mxcOps.wslc`` by their document spelling → field of `WslcSettings`."""

_FIELDS: Mapping[str, str] = {
    "image": "image",
    "imageTarPath": "image_tar",
    "targetOs": "target_os",
    "cpuCount": "cpus",
    "memoryMb": "memory_mib",
    "gpu": "gpu",
    "storagePath": "storage",
}
_LOOPBACK = "127.0.0.1"
_OF_SECTION = "wslc.portMappings."


def read_settings(section: Mapping[str, Any], ours: Mapping[str, Any]) -> WslcSettings:
    """What the sections say.

    Parameters
    ----------
    section: the canonical ``wslc``, of a one-shot or of a provision request.
    ours: ``mxcOps.wslc``.
    """
    said: dict[str, Any] = {field: section[name] for name, field in _FIELDS.items() if name in section}
    said |= {field: ours[name] for name, field in OWN_FIELDS.items() if name in ours}
    ports = tuple(
        ContainerPort(entry["windowsPort"], entry["containerPort"])
        for entry in section.get("portMappings", ())
    )
    return WslcSettings(**said, ports=ports)


def written_section(settings: WslcSettings) -> dict[str, Any]:
    """The reverse: the section ``wslc`` that says the same."""
    default = WslcSettings()
    section = {
        name: getattr(settings, field)
        for name, field in _FIELDS.items()
        if getattr(settings, field) != getattr(default, field)
    }
    ports = [{"windowsPort": port.host_port, "containerPort": port.container_port} for port in settings.ports]
    return section | ({"portMappings": ports} if ports else {})


def without_ports(policy: NetworkPolicy) -> NetworkPolicy:
    """The reverse of `with_ports`."""
    mappings = tuple(each for each in policy.mappings if not each.name.startswith(_OF_SECTION))
    return policy if mappings == policy.mappings else replace(policy, mappings=mappings)


def with_ports(policy: NetworkPolicy, settings: WslcSettings, pointer: str) -> NetworkPolicy:
    """The policy with the section's ports, each of which is itself what allows it (backends.md §5).

    Raises `PolicyRefused` for one that the policy maps already.
    """
    taken = {each.host_port: each for each in policy.mappings if each.direction is Direction.TO_SANDBOX}
    problems = [
        Problem(
            "duplicate_value",
            f"{pointer}/portMappings/{index}",
            f"the host's port {port.host_port} is taken by {taken[port.host_port].pointer}",
            fix="give it a port of its own, or remove one of the two",
        )
        for index, port in enumerate(settings.ports)
        if port.host_port in taken
    ]
    if problems:
        raise PolicyRefused(problems)
    ports = tuple(
        PortMapping(
            f"{_OF_SECTION}{index}",
            f"{pointer}/portMappings/{index}",
            Direction.TO_SANDBOX,
            Protocol.TCP,
            _LOOPBACK,
            port.host_port,
            port.container_port,
        )
        for index, port in enumerate(settings.ports)
    )
    return replace(policy, mappings=(*policy.mappings, *ports)) if ports else policy
