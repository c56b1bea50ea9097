"""The needs of backends, made into items for one host: pure data, no pyinfra.

An item is one pyinfra operation with its arguments under the need's stable identifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from backends import registry
from backends.errors import Problem, UnsupportedContainment
from backends.needs import Need, NeedKind

_PACKAGE_MANAGERS = ("debian",)
_BWRAP = "/usr/bin/bwrap"
_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "debian": ("debian", "ubuntu"),
    "fedora": ("fedora", "rhel", "centos"),
    "alpine": ("alpine",),
    "arch": ("arch",),
    "suse": ("suse", "opensuse"),
}


@dataclass(frozen=True)
class HostFacts:
    """What items depend on. `family`: of distributions, "" when unknown; `elevation`: root, sudo or none."""

    name: str
    distribution: str
    family: str
    elevation: str


@dataclass(frozen=True)
class Helper:
    """A program that is compiled on the host: where it will be, and the command that makes it."""

    path: str
    build: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """`operation` names an entry of `engine.OPERATIONS`; `arguments` are its keyword arguments."""

    identifier: str
    kind: str
    why: str
    operation: str
    arguments: Mapping[str, Any]


def needs_of(backends: Sequence[str]) -> tuple[Need, ...]:
    """What the backends need, each need once, in order.

    Raises `UnsupportedContainment` for a name without a backend.
    """
    found: dict[str, Need] = {}
    for name in backends:
        entry = registry.CONTAINMENTS.get(name)
        if entry is None or entry.module is None:
            why = entry.why if entry else "no version of MXC knows it"
            raise UnsupportedContainment(
                Problem(
                    "containment_not_available",
                    "--backend",
                    f"{name!r} cannot be prepared: {why}",
                    expected="one of " + ", ".join(registry.available()),
                )
            )
        found.update({need.identifier: need for need in import_module(f"{entry.module}.needs").needs()})
    return tuple(found.values())


def distribution_family(os_release: Mapping[str, str]) -> str:
    """The family by os-release(5): its ID, else the first of ID_LIKE that is known; "" when none is."""
    for name in [os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()]:
        for family, members in _FAMILIES.items():
            if name in members or name.partition("-")[0] in members:
                return family
    return ""


def unsupported(needs: Sequence[Need], facts: HostFacts) -> Problem | None:
    """Why this host cannot be prepared at all; None when it can."""
    if facts.family in _PACKAGE_MANAGERS:
        return None
    names = [name for need in needs for name in need.packages.get(facts.family, ())]
    return Problem(
        "unsupported_distribution",
        facts.name,
        f"mxc-ops cannot install packages on {facts.distribution or 'this distribution'}",
        expected="Debian or Ubuntu",
        fix=f"install {' '.join(names)} by hand, then: mxc-ops doctor" if names else "",
    )


def items_for(needs: Sequence[Need], helpers: Mapping[str, Helper], facts: HostFacts) -> tuple[Item, ...]:
    """One item for each need, in the order in which they must be carried out.

    Parameters
    ----------
    helpers: by the name that a need of kind HELPER gives.
    """
    return tuple(
        Item(need.identifier, need.kind.value, need.why, *_operation(need, helpers, facts)) for need in needs
    )


def _operation(need: Need, helpers: Mapping[str, Helper], facts: HostFacts) -> tuple[str, dict[str, Any]]:
    match need.kind:
        case NeedKind.PACKAGE:
            return "packages.installed", {"packages": list(need.packages[facts.family])}
        case NeedKind.KERNEL_SETTING:
            return "kernel.setting", {"key": need.key, "wanted": need.value}
        case NeedKind.DIRECTORY:
            return "files.root_directory", {"path": need.value}
        case NeedKind.ID_RANGE:
            return "ids.recorded_range", {"path": need.key, "wanted": need.value}
        case NeedKind.HELPER:
            helper = helpers[need.value]
            return "helpers.built", {"path": helper.path, "build": list(helper.build)}
        case NeedKind.APPARMOR_PROFILE:
            return "apparmor.profile", {"switch": need.key, "path": need.value, "program": _BWRAP}
