"""The directories that lead from a read-write grant to a stricter entry inside it.

A policy names paths. If the sandbox could rename such a directory, the entry's object would have another path
for the next run, and something of the sandbox's own could stand in its place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from backends.base import Access, HostPath, ObjectKind, OtherName, PathState
from backends.frozen import replace
from backends.linux.open_objects import OpenObjects

__all__ = ["add_parents"]

_OPEN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def add_parents(paths: list[HostPath], objects: OpenObjects) -> list[HostPath]:
    """`paths`, with `parents` filled in and opened step by step from the grant's own descriptor.

    A path whose parents cannot be opened, because they are being changed, becomes UNKNOWN.
    """
    accesses = {path.grant.access for path in paths}
    if Access.READ_WRITE not in accesses or len(accesses) < 2:
        return paths
    strictest: dict[str, HostPath] = {}
    for path in paths:
        if path.slot is not None:
            known = strictest.setdefault(path.canonical, path)
            if known.grant.access.strictness < path.grant.access.strictness:
                strictest[path.canonical] = path
    opened: dict[str, OtherName] = {}
    return [_with_parents(path, strictest, opened, objects) for path in paths]


def _with_parents(
    path: HostPath, strictest: dict[str, HostPath], opened: dict[str, OtherName], objects: OpenObjects
) -> HostPath:
    if path.slot is None or path.grant.access is Access.READ_WRITE:
        return path
    above = _directories_above(path.canonical)
    depth = next((depth for depth, directory in enumerate(above) if directory in strictest), None)
    if depth is None or strictest[above[depth]].grant.access is not Access.READ_WRITE:
        return path
    grant = strictest[above[depth]]
    assert grant.slot is not None
    here = objects.fileno(grant.slot)
    owner = (grant.uid, grant.gid)
    try:
        for directory in reversed(above[:depth]):
            if directory not in opened:
                opened[directory] = _open_below(here, directory, owner, objects)
            slot = opened[directory].slot
            assert slot is not None
            here = objects.fileno(slot)
    except OSError as failure:
        return replace(path, state=PathState.UNKNOWN, slot=None, error=failure.strerror or str(failure))
    return replace(path, parents=tuple(opened[directory] for directory in reversed(above[:depth])))


def _open_below(here: int, directory: str, owner: tuple[int, int], objects: OpenObjects) -> OtherName:
    descriptor = os.open(directory[directory.rfind("/") + 1 :], _OPEN, dir_fd=here)
    slot = objects.add(descriptor)
    status = os.fstat(descriptor)
    identity = (status.st_dev, status.st_ino)
    return OtherName(directory, ObjectKind.DIRECTORY, "parent", slot, identity, owner)


def _directories_above(path: str) -> Sequence[str]:
    """Nearest first, without ``/``."""
    above: list[str] = []
    while (path := path[: path.rfind("/")]) != "":
        above.append(path)
    return above
