"""What a host must have for a backend, as data that prep satisfies, doctor checks and the docs list."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from backends.errors import Problem, UsageError

__all__ = [
    "BASE",
    "EACH_USER",
    "FEATURES",
    "Health",
    "Need",
    "NeedKind",
    "Probe",
    "chosen",
    "fault_of",
    "require_known_features",
]

BASE = "base"
EACH_USER = "each user named"
"""Stands for every user that is to run sandboxes on the host, each an item of their own."""
FEATURES = ("build", "compiler", "image", "landlock", "libvirt", "native", "network", "rootless", "sessions")
"""Every feature that a need may be for, and that a user may ask for."""


class NeedKind(Enum):
    """What is needed. The keys of `Need.data` stand beside each."""

    PACKAGE = "package"  # none: see `Need.packages`
    KERNEL_SETTING = "kernel setting"  # key, wanted (a value or ">=N")
    KERNEL_MODULE = "kernel module"  # module, proof (a path that is there when it is built in)
    HELPER = "helper program"  # store, program
    ID_RANGE = "uid and gid range"  # path, wanted ("first:count")
    SUBORDINATE_IDS = "subordinate ids"  # user (or EACH_USER), count
    DIRECTORY = "directory"  # path
    APPARMOR_PROFILE = "AppArmor profile"  # switch, path, program
    IPV6_FORWARDING = "IPv6 forwarding"  # as of a kernel setting
    BRIDGE = "network bridge"  # bridge, address ("10.0.0.1/24"), address6, table (of nft, for its NAT)
    IMAGE = "image"  # image (its name), path (where it is kept)
    DEVICE = "device access"  # path, group ("": everybody)
    PYTHON_PACKAGES = "Python packages"  # environment (a path), requirements
    SERVICE = "service"  # service; otherwise (names), daemonize (an option), see `rules.services`
    LIBVIRT_NETWORK = "libvirt network"  # network, xml
    LIBVIRT_POOL = "libvirt storage pool"  # pool, path, xml
    WINDOWS_EDITION = "Windows edition"  # build (the least, as text), editions, machines
    WINDOWS_FEATURE = "Windows optional feature"  # feature
    HYPERVISOR = "Windows hypervisor"  # feature (that brings it)
    WSL_VERSION = "WSL version"  # version (the least)
    DRIVE_ENTRIES = "system drive access entries"  # sids, mask (hexadecimal)
    NULL_DEVICE = "null device descriptor"  # sddl
    BOOT_TASK = "boot task"  # task, script (its name), sddl
    EXECUTOR = "MXC executor"  # path, package, integrity


@dataclass(frozen=True)
class Need:
    """One thing a backend needs.

    Parameters
    ----------
    identifier: stable, such as ``bubblewrap.package.bwrap``.
    why: for people, half a sentence.
    packages: distribution family (``debian``, ``fedora``, ``alpine``, ``arch``, ``suse``) → package names; by
        the codename of a release where that differs from its family.
    data: depends on the kind, see `NeedKind`.
    feature: `BASE`, or the one of `FEATURES` that alone needs it.
    system: ``linux`` or ``windows``.
    machines: as ``uname -m``, those that can have it; none named: all.
    undone_with: needs of the same backend without which it cannot be taken back.
    """

    identifier: str
    kind: NeedKind
    why: str
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])
    feature: str = BASE
    system: str = "linux"
    machines: tuple[str, ...] = ()
    undone_with: tuple[str, ...] = ()

    def is_for(self, system: str, machine: str) -> bool:
        """Whether a host of this system and machine can have it."""
        return system == self.system and (not self.machines or machine in self.machines)


def chosen(needs: Iterable[Need], features: Iterable[str]) -> tuple[Need, ...]:
    """Those that are always needed and those of the given features, in the same order."""
    wanted = {BASE, *features}
    return tuple(need for need in needs if need.feature in wanted)


def require_known_features(features: Iterable[str]) -> None:
    """Raises `UsageError` for a feature that no backend knows."""
    for feature in features:
        if feature not in FEATURES:
            raise UsageError(
                Problem(
                    "unknown_feature",
                    "--feature",
                    f"no backend knows a feature {feature!r}",
                    expected="one of " + ", ".join(FEATURES),
                )
            )


class Health(Enum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Probe:
    """One functional check that was made: what was seen, why it matters, how to mend it, who may mend it."""

    identifier: str
    health: Health
    seen: str
    why: str = ""
    fix: str = ""
    privilege: str = "none"


def fault_of(feature: str, features: Collection[str]) -> Health:
    """What a part of a feature is that does not work: a failure where the feature was asked for."""
    return Health.FAILED if feature in features else Health.WARNING
