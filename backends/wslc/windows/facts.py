"""What a Windows host would say before a plan is made: data that an observer there, or a test, provides."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from backends.base import ObjectKind
from backends.frozen import frozen

__all__ = ["Archive", "ArchiveFormat", "PathFact", "WindowsFacts"]


@frozen
class PathFact:
    """What one path leads to.

    Parameters
    ----------
    real: the final name that Windows gives a handle to it (by ``GetFinalPathNameByHandleW``), from the drive
        on: no link, no short name, no substituted drive and no other case is left in it. Where
        there is nothing, that of what exists above, and the rest as written.
    kind: None: there is nothing.
    readable, writable: the rights of the user for whom the container is started.
    links_unaccounted: it, or something in it, has further names (hard links) that were not all looked for.
    error: why it could not be looked at; "" if it could.
    """

    real: str
    kind: ObjectKind | None = None
    readable: bool = False
    writable: bool = False
    links_unaccounted: bool = False
    error: str = ""


class ArchiveFormat(Enum):
    """Told apart by content, as upstream does: an archive of an image has a ``manifest.json`` on top."""

    ROOT_FILE_SYSTEM = "rootfs"
    IMAGE = "image"


@frozen
class Archive:
    """The image archive of a request. `digest` is its SHA-256 in hex; `names` are the references that an
    archive of an image has in it."""

    format: ArchiveFormat
    digest: str
    names: tuple[str, ...] = ()


@frozen
class WindowsFacts:
    """`paths` is by the path as it is written in the request; `storage` is where the host keeps the disks of
    sessions that name no place; `wsl_version` is as ``wsl --version`` says it, "" without WSL."""

    wsl_version: str
    storage: str
    paths: Mapping[str, PathFact] = MappingProxyType({})
    archive: Archive | None = None
