"""Further names of denied and read-only objects: hard links, and second mounts of their file system.

A mask or a read-only mount covers one name. The object stays reachable through any other name that a more
permissive tree shows: those names are found here, so that they can be covered too, or the run be refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from backends.base import Access, Handles, HostPath
from backends.linux.mountinfo import KERNEL_INTERFACES, Mount, mount_id, read_mountinfo
from backends.pathnames import within

__all__ = ["add_other_names"]


def add_other_names(
    paths: Sequence[HostPath], objects: Handles, visible_trees: Sequence[str]
) -> list[HostPath]:
    """`paths`, with `others`, `links_unaccounted` and `kernel_mounts` filled in."""
    mounts = read_mountinfo()
    return [_with_kernel_mounts(path, objects, mounts) for path in paths]


def _with_kernel_mounts(path: HostPath, objects: Handles, mounts: Sequence[Mount]) -> HostPath:
    if path.slot is None or path.grant.access is Access.DENIED:
        return path
    through = mount_id(objects.fileno(path.slot))
    found = tuple(
        path.canonical if mount.mount_id == through else mount.point
        for mount in mounts
        if mount.filesystem in KERNEL_INTERFACES
        and (mount.mount_id == through or within(mount.point, path.canonical))
    )
    return replace(path, kernel_mounts=found) if found else path
