"""The images of a host as a table and as a document: those of machines, and those of containers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backends.errors import BackendUnavailable
    from vm_images.store import Stored

__all__ = ["COLUMNS", "SHOWN_DIGITS", "document", "rows"]

COLUMNS = ("name", "kind", "key", "root", "size", "digest", "store")
SHOWN_DIGITS = 12
_MACHINE, _CONTAINER = "machine", "container"
_MIB = 1 << 20
_OF_MACHINES = ("format", "memoryMib", "zygote", "commandLine", "warmUp", "inputs", "parts")
_OF_CONTAINERS = (
    *("format", "source", "digest", "configDigest"),
    *("runAs", "shell", "notes", "inputs", "parts"),
)


def rows(machines: Sequence[Stored], containers: Sequence[Stored]) -> list[tuple[str, ...]]:
    """One for each image; a digest is that of a container's manifest."""
    return [*(_row(image, _MACHINE, "") for image in machines), *(_row_of(image) for image in containers)]


def _row_of(image: Stored) -> tuple[str, ...]:
    return _row(image, _CONTAINER, image.manifest["digest"])


def _row(image: Stored, kind: str, digest: str) -> tuple[str, ...]:
    shown = digest.removeprefix("sha256:")[:SHOWN_DIGITS] or "-"
    size = f"{_size(image) // _MIB} MiB"
    names = ", ".join(image.names) or "-"
    return (names, kind, image.key[:SHOWN_DIGITS], image.manifest["format"], size, shown, image.store)


def _size(image: Stored) -> int:
    """Without what a disk is padded with."""
    return sum(part.get("content", part["size"]) for part in image.manifest["parts"].values())


def document(
    machines: Sequence[Stored], containers: Sequence[Stored], broken: Sequence[BackendUnavailable]
) -> dict[str, Any]:
    """What ``--json`` tells."""
    images = [_told(image, _MACHINE, _OF_MACHINES) for image in machines]
    images += [_told(image, _CONTAINER, _OF_CONTAINERS) for image in containers]
    return {"images": images, "problems": [error.as_dict() for error in broken]}


def _told(image: Stored, kind: str, names: Sequence[str]) -> dict[str, Any]:
    known = {"names": list(image.names), "kind": kind, "key": image.key, "path": image.folder}
    return known | {name: image.manifest[name] for name in names}
