"""What the first member of an image's archive must look like. Pure, and without a package of others'."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from vm_images.interpreters import INTERPRETERS
from vm_images.store import SCHEMA_VERSION

__all__ = ["misshapen"]

_MAX_PART = 64 << 30
_MAX_TEXT = 4096
_Test = Callable[[object], bool]


def misshapen(index: object) -> str:
    """The first place where it is not as it should be, as ``manifest.parts.initrd.size``; "" for none."""
    return _differs(index, _INDEX, "document")


def _differs(value: object, wanted: Mapping[str, Any] | _Test, place: str) -> str:
    if callable(wanted):
        return "" if wanted(value) else place
    if not isinstance(value, dict):
        return place
    found = cast("dict[str, object]", value)
    if odd := set(found) ^ set(wanted):
        return f"{place}.{min(odd)}"
    return next(
        (wrong for name in wanted if (wrong := _differs(found[name], wanted[name], f"{place}.{name}"))), ""
    )


def _text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TEXT


def _one_of(*values: object) -> _Test:
    return lambda value: any(value == one and type(value) is type(one) for one in values)


def _between(least: int, most: int) -> _Test:
    return lambda value: type(value) is int and least <= value <= most


def _table(value: object) -> bool:
    return isinstance(value, dict)


def _sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _parts(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    parts = cast("dict[str, object]", value)
    booting = set(parts) & {"vmlinux", "initrd"}
    roots = set(parts) - booting
    known = (
        len(booting) in (0, 2)
        and bool(parts)
        and len(roots) <= 1
        and roots <= {"rootfs.erofs", "rootfs.squashfs"}
    )
    return known and not any(_differs(part, _PART, "part") for part in parts.values())


_PART: Mapping[str, Any] = {"size": _between(1, _MAX_PART), "sha256": _sha256}
_INDEX: Mapping[str, Any] = {
    "name": _text,
    "manifest": {
        "schemaVersion": _one_of(SCHEMA_VERSION),
        "key": _sha256,
        "commandLine": _text,
        "format": _one_of("none", "erofs", "squashfs"),
        "memoryMib": _between(64, 1 << 20),
        "zygote": _one_of("", *INTERPRETERS),
        "warmUp": _text,
        "inputs": _table,
        "parts": _parts,
    },
}
