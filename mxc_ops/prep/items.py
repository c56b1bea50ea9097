"""The needs of backends, made into items for one host: pure data, no pyinfra.

An item is one operation with its arguments under the need's stable identifier.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any

from backends import registry
from backends.errors import Problem, UnsupportedContainment, UsageError
from backends.inside.store import PROGRAMS, source_key
from backends.needs import EACH_USER, Need, NeedKind, require_known_features
from mxc_ops.prep.choices import COMPILER, Choices
from mxc_ops.prep.rules.packages import MANAGERS

__all__ = [
    "FAMILIES",
    "OPERATIONS",
    "HostFacts",
    "Item",
    "distribution_codename",
    "distribution_family",
    "items_for",
    "named",
    "naming_none",
    "needs_of",
    "unsupported",
]

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "debian": ("debian", "ubuntu"),
    "fedora": ("fedora", "rhel", "centos"),
    "alpine": ("alpine",),
    "arch": ("arch",),
    "suse": ("suse", "opensuse"),
}
LINUX, WINDOWS = "linux", "windows"
_OTHER_BACKENDS = "name other backends for this host: --backend, or mxc_backends in the inventory"
OPERATIONS: Mapping[NeedKind, str] = {
    NeedKind.PACKAGE: "packages.installed",
    NeedKind.KERNEL_SETTING: "kernel.setting",
    NeedKind.KERNEL_MODULE: "kernel.module",
    NeedKind.HELPER: "helpers.built",
    NeedKind.ID_RANGE: "ids.recorded_range",
    NeedKind.SUBORDINATE_IDS: "ids.subordinate",
    NeedKind.DIRECTORY: "files.root_directory",
    NeedKind.APPARMOR_PROFILE: "apparmor.profile",
    NeedKind.IPV6_FORWARDING: "network.ipv6_forwarding",
    NeedKind.BRIDGE: "network.bridge",
    NeedKind.IMAGE: "images.stored",
    NeedKind.DEVICE: "devices.accessible",
    NeedKind.PYTHON_PACKAGES: "python.environment",
    NeedKind.SERVICE: "services.running",
    NeedKind.LIBVIRT_NETWORK: "libvirt.network",
    NeedKind.LIBVIRT_POOL: "libvirt.pool",
    NeedKind.WINDOWS_EDITION: "windows.edition",
    NeedKind.WINDOWS_FEATURE: "windows.feature",
    NeedKind.HYPERVISOR: "windows.hypervisor",
    NeedKind.WSL_VERSION: "windows.wsl",
    NeedKind.DRIVE_ENTRIES: "windows.drive_entries",
    NeedKind.NULL_DEVICE: "windows.null_device",
    NeedKind.BOOT_TASK: "windows.boot_task",
    NeedKind.EXECUTOR: "windows.executor",
}


@dataclass(frozen=True)
class HostFacts:
    """What items depend on.

    Parameters
    ----------
    distribution: for people; on Windows the edition and build.
    family: of distributions, "" when unknown.
    elevation: root, sudo, sudo-password, doas, administrator or none.
    machine: as ``uname -m``.
    service_manager: systemd, openrc or none.
    codename: of the distribution's release, or of Ubuntu's that it is made from; "" when it has none.
    """

    name: str
    distribution: str
    family: str
    elevation: str
    machine: str = "x86_64"
    service_manager: str = "none"
    system: str = LINUX
    codename: str = ""


@dataclass(frozen=True)
class Item:
    """`operation` names an operation of `mxc_ops.prep.operations`; `arguments` are JSON."""

    identifier: str
    kind: str
    why: str
    operation: str
    arguments: Mapping[str, Any]


def needs_of(choices: Choices) -> tuple[Need, ...]:
    """What the backends need, each need once, in order.

    Raises `UnsupportedContainment` for a name that nothing can be prepared for, `UsageError` for a feature
    that no backend knows.
    """
    require_known_features(choices.features)
    features = [*choices.features, *([COMPILER] if choices.launcher == "build" else [])]
    found: dict[str, Need] = {}
    for name in choices.backends:
        entry = registry.CONTAINMENTS.get(name)
        if entry is None:
            expected = "one of " + ", ".join(registry.preparable())
            message = f"no containment is called {name!r}"
            raise UsageError(Problem("unknown_containment", "--backend", message, expected=expected))
        if entry.needs is None:
            why = entry.why
            raise UnsupportedContainment(
                Problem(
                    "containment_not_available",
                    "--backend",
                    f"{name!r} cannot be prepared: {why}",
                    expected="one of " + ", ".join(registry.preparable()),
                    fix=_OTHER_BACKENDS,
                )
            )
        found.update({need.identifier: need for need in import_module(entry.needs).needs(features)})
    return tuple(found.values())


def distribution_family(os_release: Mapping[str, str]) -> str:
    """The family by os-release(5): its ID, else the first of ID_LIKE that is known; "" when none is."""
    for name in [os_release.get("ID", ""), *os_release.get("ID_LIKE", "").split()]:
        for family, members in FAMILIES.items():
            if name in members or name.partition("-")[0] in members:
                return family
    return ""


def distribution_codename(os_release: Mapping[str, str]) -> str:
    """By os-release(5): Ubuntu's, also in what is made from it, else the distribution's own; "" for none."""
    return os_release.get("UBUNTU_CODENAME", "") or os_release.get("VERSION_CODENAME", "")


def unsupported(needs: Sequence[Need], facts: HostFacts) -> Problem | None:
    """Why this host cannot be prepared at all; None when it can.

    A backend that cannot exist here makes it so, too: a host that is called ready has everything asked for.
    """
    misplaced = _misplaced(needs, facts)
    if misplaced:
        return misplaced
    if facts.system == WINDOWS or facts.family in MANAGERS:
        return None
    names = [name for need in needs for name in need.packages.get("debian", ())]
    return Problem(
        "unsupported_distribution",
        facts.name,
        f"mxc-ops cannot install packages on {facts.distribution or 'this distribution'}",
        expected="a distribution of one of the families " + ", ".join(MANAGERS),
        fix=f"install by hand what Debian calls {' '.join(names)}, then: mxc-ops doctor" if names else "",
    )


def _misplaced(needs: Sequence[Need], facts: HostFacts) -> Problem | None:
    """The first backend none of whose needs this host can have. Needs are told apart by their identifiers."""
    of_backends: dict[str, list[Need]] = {}
    for need in needs:
        of_backends.setdefault(need.identifier.partition(".")[0], []).append(need)
    for backend, own in of_backends.items():
        if any(need.is_for(facts.system, facts.machine) for need in own):
            continue
        here = [need for need in own if need.system == facts.system]
        code, only, this = (
            ("unsupported_machine", [name for need in here for name in need.machines], facts.machine)
            if here
            else ("unsupported_system", [need.system for need in own], facts.distribution or facts.system)
        )
        return Problem(
            code,
            facts.name,
            f"{backend} exists on {' and '.join(dict.fromkeys(only))} only, and this is {this}",
            fix=_OTHER_BACKENDS,
        )
    return None


def items_for(needs: Iterable[Need], facts: HostFacts, choices: Choices) -> tuple[Item, ...]:
    """One item for each need that this host can have, in the order in which they must be carried out."""
    return tuple(
        Item(each.identifier, each.kind.value, each.why, *_operation(each, facts, choices))
        for need in needs
        if need.is_for(facts.system, facts.machine) and _applies(need, facts)
        for each in _for_users(need, choices.users)
    )


def _for_users(need: Need, users: Sequence[str]) -> list[Need]:
    """The need itself, or one for each user, where it is a need of users."""
    if need.data.get("user") != EACH_USER:
        return [need]
    return [
        replace(need, identifier=f"{need.identifier}.{user}", data={**need.data, "user": user})
        for user in users
    ]


def named(items: Sequence[Item], patterns: Sequence[str]) -> tuple[Item, ...]:
    """Those that one of the patterns names (``lxc.package.*``), in the same order; without patterns all."""
    if not patterns:
        return tuple(items)
    return tuple(item for item in items if any(fnmatchcase(item.identifier, pattern) for pattern in patterns))


def naming_none(identifiers: Collection[str], patterns: Sequence[str]) -> list[str]:
    """The patterns that name none of the items."""
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in identifiers)]


def _applies(need: Need, facts: HostFacts) -> bool:
    """A family that needs no package of its own for it names none."""
    return need.kind is not NeedKind.PACKAGE or bool(_packages(need, facts))


def _packages(need: Need, facts: HostFacts) -> Sequence[str]:
    """Those of the release, where it is a special one, else of the family."""
    return need.packages.get(facts.codename) or need.packages.get(facts.family, ())


def _operation(need: Need, facts: HostFacts, choices: Choices) -> tuple[str, dict[str, Any]]:
    operation = OPERATIONS[need.kind]
    match need.kind:
        case NeedKind.PACKAGE:
            return operation, {"packages": list(_packages(need, facts)), "family": facts.family}
        case NeedKind.HELPER:
            return _helper(need, facts, choices)
        case NeedKind.IMAGE:
            return _image(need, choices)
        case NeedKind.BRIDGE:
            bridge = need.data["bridge"]
            address = choices.bridges.get(bridge, need.data["address"])
            return operation, {**need.data, "address": address, "manager": facts.service_manager}
        case NeedKind.SERVICE:
            return operation, {**need.data, "manager": facts.service_manager}
        case _:
            return operation, dict(need.data)


def _image(need: Need, choices: Choices) -> tuple[str, dict[str, Any]]:
    name: str = need.data["image"]
    arguments = {**need.data, **choices.images.get(name, {})}
    if "source" in arguments:
        from mxc_ops.prep.pushing import key_in

        arguments["key"] = key_in(arguments["source"])
    return OPERATIONS[need.kind], arguments


def _helper(need: Need, facts: HostFacts, choices: Choices) -> tuple[str, dict[str, Any]]:
    arguments = {**need.data, "key": source_key(PROGRAMS[need.data["program"]], facts.machine)}
    if choices.launcher == "push":
        from mxc_ops.prep.pushing import own_program

        return "helpers.pushed", {**arguments, **own_program(need.data["program"], facts.machine)}
    return "helpers.built", {**arguments, "machine": facts.machine}
