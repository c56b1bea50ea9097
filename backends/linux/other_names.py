"""Further names of denied and read-only objects: second mounts of their file system, and hard links.

A mask or a read-only mount covers one name. The object stays reachable through any other name that a more
permissive tree shows: those names are found here, so that they can be covered too, or the run be refused.

Not looked for: hard links of files below a *read-only* directory, which would mean a walk through every such
directory; and what lies in directories of other users that the caller cannot read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.base import Access, HostPath
from backends.frozen import replace
from backends.linux.mountinfo import KERNEL_INTERFACES, Mount, mount_id, read_mountinfo
from backends.linux.open_objects import OpenObjects
from backends.pathnames import within

if TYPE_CHECKING:
    from backends.linux.hard_links import Budget

__all__ = ["add_other_names"]


def add_other_names(
    paths: Sequence[HostPath],
    objects: OpenObjects,
    visible_trees: Sequence[str],
    budget: Budget | None = None,
) -> list[HostPath]:
    """`paths`, with `others`, `links_unaccounted` and `kernel_mounts` filled in.

    Parameters
    ----------
    objects: the open descriptors of `paths`; those of further names of read-only objects are added.
    visible_trees: host paths that the sandbox shows read-only without any grant.
    budget: bound of the search for hard links; used up.
    """
    mounts = read_mountinfo()
    found = [_with_kernel_mounts(path, objects, mounts) for path in paths]
    policy: dict[str, tuple[Access, int]] = {}
    for path in paths:
        if path.slot is not None:
            known = policy.get(path.canonical)
            if known is None or known[0].strictness < path.grant.access.strictness:
                policy[path.canonical] = (path.grant.access, objects.fileno(path.slot))
    granted = {access for access, _ in policy.values()}
    if Access.DENIED not in granted and len(granted) < 2:
        return found  # nothing is stricter than anything else
    from backends.linux.name_search import search_names

    return search_names(mounts, policy, found, objects, visible_trees, budget)


def _with_kernel_mounts(path: HostPath, objects: OpenObjects, mounts: Sequence[Mount]) -> HostPath:
    if path.slot is None or path.grant.access is Access.DENIED:
        return path
    through = mount_id(objects.fileno(path.slot))
    kernel = tuple(
        path.canonical if mount.mount_id == through else mount.point
        for mount in mounts
        if mount.filesystem in KERNEL_INTERFACES
        and (mount.mount_id == through or within(mount.point, path.canonical))
    )
    return replace(path, kernel_mounts=kernel) if kernel else path
