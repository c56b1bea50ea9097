"""What a host must have for a backend, as data that prep satisfies, doctor checks and the docs list."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class NeedKind(Enum):
    PACKAGE = "package"
    KERNEL_SETTING = "kernel setting"
    HELPER = "helper program"
    ID_RANGE = "uid and gid range"
    DIRECTORY = "directory"
    APPARMOR_PROFILE = "AppArmor profile"


@dataclass(frozen=True)
class Need:
    """One thing a backend needs.

    `identifier` is stable (``bubblewrap.package.bwrap``). `packages` maps a distribution family (``debian``,
    ``fedora``, ``alpine``, ``arch``, ``suse``) to package names. `value` depends on the kind: the sysctl's
    wanted value, the helper's name, ``first:count`` of an id range, a path.
    """

    identifier: str
    kind: NeedKind
    why: str
    packages: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    key: str = ""
    value: str = ""
    feature: str = "base"


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
