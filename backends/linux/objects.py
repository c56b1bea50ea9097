"""What the paths of a policy are on this host: the only look at the file system before a plan is made.

Each path is opened once, as the caller, without reading it (`O_PATH`); what is mounted later is that very
descriptor, so a path that is swapped afterwards changes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from backends.base import Access, Grant, HostPath, PathState
from backends.linux.delegation import Caller, HasAccess, as_caller, calling_user
from backends.linux.open_objects import OpenObjects, object_kind
from backends.linux.parents import add_parents
from backends.linux.path_walk import arrive
from backends.pathnames import fold

__all__ = ["Caller", "OpenObjects", "calling_user", "observe_paths"]


def observe_paths(
    grants: Sequence[Grant], caller: Caller, *, visible_trees: Sequence[str]
) -> tuple[tuple[HostPath, ...], OpenObjects]:
    """Open every path with `caller`'s rights and say what it is.

    Parameters
    ----------
    visible_trees: host paths (directories or files) that every sandbox shows anyway; names of denied objects
        are looked for there too.

    The answer has one `HostPath` per grant, in order; nothing is refused here except a caller whose rights
    cannot be taken on (`PolicyRefused`).
    """
    objects = OpenObjects()
    try:
        paths = as_caller(
            caller,
            lambda access: add_parents([_observe(grant, objects, access) for grant in grants], objects),
        )
        if any(path.slot is not None for path in paths):
            from backends.linux.other_names import add_other_names

            paths = add_other_names(paths, objects, visible_trees)
    except BaseException:
        objects.close()
        raise
    return tuple(paths), objects


def _observe(grant: Grant, objects: OpenObjects, has_access: HasAccess) -> HostPath:
    if not grant.path.startswith("/"):
        absolute = fold(f"{os.getcwd()}/{grant.path}")
        return HostPath(grant, PathState.UNKNOWN, absolute, error="the path is relative")
    try:
        arrival = arrive(grant.path)
        if arrival.descriptor is None:
            return HostPath(grant, PathState.ABSENT, arrival.canonical, hops=arrival.hops)
        slot = objects.add(arrival.descriptor)
        found = os.fstat(arrival.descriptor)
        wanted = grant.access is not Access.DENIED
        enter = os.X_OK if stat.S_ISDIR(found.st_mode) else 0
        return HostPath(
            grant=grant,
            state=PathState.OBJECT,
            canonical=arrival.canonical,
            kind=object_kind(found.st_mode),
            device=found.st_dev,
            inode=found.st_ino,
            uid=found.st_uid,
            gid=found.st_gid,
            mode=found.st_mode,
            readable=wanted and has_access(arrival.descriptor, os.R_OK | enter),
            writable=wanted and has_access(arrival.descriptor, os.W_OK | enter),
            hops=arrival.hops,
            slot=slot,
        )
    except OSError as failure:
        return HostPath(grant, PathState.UNKNOWN, fold(grant.path), error=failure.strerror or str(failure))
