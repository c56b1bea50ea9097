"""Inventory files of a fleet, as a person would write them for pyinfra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fleet.fleet import NOBODY, Fleet
from tests.fleet.image import USER

__all__ = ["Group", "ssh_data", "write_inventory"]


@dataclass(frozen=True)
class Group:
    """Hosts and what they have in common.

    Parameters
    ----------
    hosts: names of machines; any other name gets an address that no machine has.
    data: such as ``mxc_backends``.
    """

    hosts: Sequence[str]
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])


def write_inventory(path: Path, fleet: Fleet, groups: Mapping[str, Group]) -> Path:
    """Write a pyinfra inventory with these groups; its path."""
    lines: list[str] = []
    for name, group in groups.items():
        hosts = [(host, ssh_data(fleet, host)) for host in group.hosts]
        lines.append(f"{name} = ({hosts!r}, {dict(group.data)!r})\n")
    path.write_text("".join(lines))
    return path


def ssh_data(fleet: Fleet, host: str) -> dict[str, Any]:
    """How pyinfra reaches a host, its key checked strictly."""
    return {
        "ssh_hostname": fleet.address(host) if host in fleet.machines else NOBODY,
        "ssh_user": USER,
        "ssh_key": str(fleet.key),
        "ssh_known_hosts_file": str(fleet.known_hosts),
        "ssh_strict_host_key_checking": "yes",
    }
