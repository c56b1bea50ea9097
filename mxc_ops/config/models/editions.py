"""The index of versions: which shapes belong to which version, and the unions that the ranged line reads.

An *edition* is one set of shapes with the rules that belong to the shapes themselves. The contracts are
editions as upstream states them; the ranged ones are unions of 0.9.0-dev with what the declared minor version
knew, closed, plus the old names that every parser of that line reads, plus our extension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from mxc_ops.config import extension
from mxc_ops.config.models import v0_4, v0_5, v0_6, v0_7, v0_8, v0_9_alpha, v0_9_dev, v1_0, v1_1
from mxc_ops.config.models.kinds import (
    Kind,
    Shape,
    Shapes,
    Sort,
    changed,
    choice,
    optional,
    required,
    section,
)

PROCESS_CONTAINER = ("processcontainer", "appcontainer", "process")
SEATBELT = ("seatbelt", "macos_sandbox", "process")
PROVISION_REQUESTS: Mapping[str, str] = {
    "isolation_session": "IsolationSessionProvisionRequest",
    "wslc": "WslcProvisionRequest",
    "windows_sandbox": "WindowsSandboxProvisionRequest",
    **dict.fromkeys(
        ("process", "bubblewrap", "lxc", "microvm", "vm", "hyperlight"), "SessionProvisionRequest"
    ),
}
"""Containment → the closed shape of its provision request; the last one is ours (see `extended`)."""
_SESSION_FIELDS = ("containerId", "filesystem", "fallback", "network", "ui", "runtimeConfig", "hyperlight")


@dataclass(frozen=True, eq=False)
class Edition:
    """One version's document.

    Parameters
    ----------
    name: as `version` names it; ranged ones ``0.8`` and so on.
    shapes: ``Request`` is the one-shot (and, where there is nothing else, every request).
    nulls: null stands for "absent" in what is optional.
    one_proxy: a proxy has exactly one of its fields, even as far as the shape goes.
    capability_names: entries of processContainer.capabilities hold no comma and no reserved name.
    section_needs: a root section that is there needs `containment` to be there with one of these values.
    """

    name: str
    shapes: Shapes
    nulls: bool = False
    one_proxy: bool = False
    capability_names: bool = False
    section_needs: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @property
    def exact(self) -> bool:
        """Whether each kind of request is a closed object of its own (config-schema.md §8)."""
        return "StartRequest" in self.shapes


_SECTION_NEEDS_0_7: dict[str, tuple[str, ...]] = {
    "processContainer": PROCESS_CONTAINER,
    "appContainer": PROCESS_CONTAINER,
    "lxc": ("lxc",),
    "seatbelt": SEATBELT,
    "macos_sandbox": SEATBELT,
}
_SECTION_NEEDS_0_7_DEV: dict[str, tuple[str, ...]] = {
    "processContainer": PROCESS_CONTAINER,
    "lxc": ("lxc",),
    "experimental/windows_sandbox": ("windows_sandbox", "vm"),
    "experimental/wslc": ("wslc",),
    "experimental/seatbelt": SEATBELT,
    "experimental/isolation_session": ("isolation_session",),
}

CONTRACTS: Mapping[str, Edition] = {
    edition.name: edition
    for edition in (
        Edition("0.4.0-alpha", v0_4.SHAPES, one_proxy=True),
        Edition("0.5.0-alpha", v0_5.SHAPES, one_proxy=True),
        Edition("0.6.0-alpha", v0_6.CONTRACT, one_proxy=True),
        Edition("0.7.0-dev", v0_7.DEV, one_proxy=True, section_needs=_SECTION_NEEDS_0_7_DEV),
        Edition("0.7.0-alpha", v0_7.CONTRACT, one_proxy=True, section_needs=_SECTION_NEEDS_0_7),
        Edition("0.8.0-dev", v0_8.DEV),
        Edition("0.8.0-alpha", v0_8.CONTRACT, one_proxy=True, capability_names=True),
        Edition("0.9.0-dev", v0_9_dev.SHAPES, nulls=True),
        Edition("0.9.0-alpha", v0_9_alpha.SHAPES, capability_names=True),
        Edition("1.0.0", v1_0.SHAPES, capability_names=True),
        Edition("1.1.0-alpha", v1_1.SHAPES, capability_names=True),
    )
}
"""Every contract that a document can name, oldest first."""

EXACT = ("0.9.0-alpha", "1.0.0", "1.1.0-alpha")
"""Versions that govern a document exactly even by default; all others are ranged."""

PUBLISHED: Mapping[str, Shapes] = {
    "0.4.0-alpha": v0_4.SHAPES,
    "0.5.0-alpha": v0_5.SHAPES,
    "0.6.0-alpha": v0_6.SHAPES,
    "0.7.0-dev": v0_7.DEV,
    "0.7.0-alpha": v0_7.ALPHA,
    "0.8.0-dev": v0_8.DEV,
    "0.8.0-alpha": v0_8.STABLE,
    "0.9.0-dev": v0_9_dev.SHAPES,
}
"""What the published schema of a ranged version had, by the version's name."""

_KNOWN_BY_MINOR: Mapping[int, tuple[Shapes, ...]] = {
    4: (v0_4.SHAPES,),
    5: (v0_5.SHAPES,),
    6: (v0_6.SHAPES,),
    7: (v0_7.ALPHA, v0_7.DEV),
    8: (v0_8.DEV, v0_8.CONTRACT),
    9: (),
}

RANGED_MINORS = tuple(_KNOWN_BY_MINOR)


@cache
def ranged(minor: int) -> Edition:
    """The edition that reads documents of 0.`minor` by default."""
    shapes: Shapes = v0_9_dev.SHAPES
    for known in _KNOWN_BY_MINOR[minor]:
        shapes = _union(shapes, known)
    root = shapes["Request"]
    containments = root["containment"].choices
    old_names: dict[str, Kind | None] = {
        "appContainer": section("ProcessContainer"),
        "macos_sandbox": section("Seatbelt"),
        "containment": choice(*dict.fromkeys((*containments, "appcontainer", "macos_sandbox"))),
    }
    edition = Edition(
        f"0.{minor}", changed(shapes, Request=old_names), nulls=True, capability_names=minor >= 8
    )
    return extended(edition)


@cache
def exact(name: str) -> Edition:
    """The edition that reads documents of an exact contract by default: the contract plus our extension."""
    return extended(CONTRACTS[name])


def extended(edition: Edition) -> Edition:
    """`edition` with `mxcOps`, whose `args` may stand in for ``process.commandLine``.

    Where each kind of request has its own shape, there is one more: to provision what upstream cannot.
    """
    shapes = dict(edition.shapes)
    if edition.exact:
        shapes["SessionProvisionRequest"] = _session_provision(edition)
    for name, shape in list(shapes.items()):
        if name == "Request" or name == "ExecRequest" or name.endswith("ProvisionRequest"):
            shapes[name] = {**shape, extension.KEY: section("MxcOps")}
        if "process" in shape and name != "MxcOps":
            shapes[name] = {**shapes[name], "process": optional(shape["process"])}
    process = edition.shapes["Process"]
    shapes["Process"] = {**process, "commandLine": optional(process["commandLine"])}
    return replace(edition, shapes=shapes | extension.SHAPES)


def _session_provision(edition: Edition) -> Shape:
    """The policy that a one-shot of this edition may have, for containments that it knows."""
    one_shot, later = edition.shapes["Request"], edition.shapes["StartRequest"]
    ours = (name for name, root in PROVISION_REQUESTS.items() if root == "SessionProvisionRequest")
    known = [name for name in ours if name in one_shot["containment"].choices]
    return {
        **{name: kind for name, kind in later.items() if name != "sandboxId"},
        "phase": required(choice("provision")),
        "containment": required(choice(*known)),
        **{name: one_shot[name] for name in _SESSION_FIELDS if name in one_shot},
    }


def _union(newer: Shapes, older: Shapes) -> Shapes:
    """Everything either knows; where both know a field, the newer one's kind, with the choices of both."""
    merged: dict[str, Shape] = dict(newer)
    for name in reachable(older, "Request"):
        mine = newer.get(name, {})
        fields = {**older[name], **mine}
        for field_name, kind in mine.items():
            other = older[name].get(field_name)
            if other is not None and kind.sort is other.sort is Sort.CHOICE:
                fields[field_name] = choice(*dict.fromkeys(kind.choices + other.choices))
        merged[name] = fields
    return merged


def reachable(shapes: Shapes, *roots: str) -> set[str]:
    """Names of the shapes that `roots` can hold; a version keeps older ones that it no longer refers to."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(held for kind in shapes[name].values() for held in sections_of(kind))
    return found


def sections_of(kind: Kind) -> tuple[str, ...]:
    """Names of the shapes that a field of this kind can hold."""
    if kind.section:
        return (kind.section,)
    inner = (*kind.members, *((kind.item,) if kind.item else ()))
    return tuple(name for member in inner for name in sections_of(member))
