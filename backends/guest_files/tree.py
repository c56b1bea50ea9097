"""Walking a grant from its open descriptor: nothing outside of it can be met, whatever is swapped meanwhile.

Each directory is opened from its parent's descriptor, and never through a symbolic link. Mounts below are
part of the tree, as they are for a recursive bind; file systems of the kernel's own are refused earlier.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from backends.base import Handles
from backends.errors import LaunchFailed, Problem
from backends.guest_files.plan import ShippedGrant

__all__ = ["MAX_DEPTH", "NOBODY", "Found", "Withheld", "inside_ids", "open_file", "walk"]

NOBODY = 65534
MAX_DEPTH = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_SPECIAL_PERMISSIONS = 0o7000


class Withheld:
    """What a walk could not, or must not, hand over: counted, with the first path of each reason."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._count: dict[str, int] = {}

    def add(self, why: str, path: str) -> None:
        self._first.setdefault(why, path)
        self._count[why] = self._count.get(why, 0) + 1

    def warnings(self, grant: ShippedGrant) -> Iterator[str]:
        for why, first in self._first.items():
            more = f" and {self._count[why] - 1} more" if self._count[why] > 1 else ""
            yield f"{grant.pointer}: {f'{grant.path}/{first}'.rstrip('/')!r}{more} {why}"


SPECIAL = "left out: sockets, fifos and devices stay on the host"
UNREADABLE = "handed over without content: the command may not read it on the host either"
CHANGING = "was changed while it was read"


class Found:
    """One object of a walk, parents before children.

    `path` is relative to the grant ("" is the grant itself), `directory` the open descriptor of its parent
    and `name` its name there (-1 and "" for the grant itself). `withheld`: without content, or children. The
    descriptors are the walk's.
    """

    __slots__ = ("directory", "name", "opened", "path", "status", "withheld")

    def __init__(self, path: str, name: str, directory: int, status: os.stat_result, opened: int) -> None:
        self.path = path
        self.name = name
        self.directory = directory
        self.status = status
        self.opened = opened  # the grant itself, else -1
        self.withheld = False

    @property
    def mode(self) -> int:
        """Type and permissions shown inside. What is withheld must not look like an empty file."""
        mode = self.status.st_mode
        if stat.S_ISDIR(mode):
            return mode & ~(stat.S_ISUID | stat.S_ISGID | (0o555 if self.withheld else 0))
        return mode & ~(_SPECIAL_PERMISSIONS | (0o444 if self.withheld else 0))


def walk(grant: ShippedGrant, handles: Handles, withheld: Withheld) -> Iterator[Found]:
    """Every object of the grant but what is left out, sorted by name in each directory.

    Raises `LaunchFailed` when the grant is not the object that was checked (retryable) or nested too deep.
    """
    handle = handles.fileno(grant.slot)
    status = os.fstat(handle)
    if (status.st_dev, status.st_ino) != grant.object:
        raise object_changed(grant)
    top = Found("", "", -1, status, handle)
    if not stat.S_ISDIR(status.st_mode):
        top.withheld = stat.S_ISREG(status.st_mode) and not _may(grant, status, 4, handle)
        if top.withheld:
            withheld.add(UNREADABLE, "")
        yield top
        return
    # A descriptor from O_PATH cannot be listed; "." of it is the same directory, opened anew.
    yield from _descend(grant, handle, top, withheld)


def _descend(grant: ShippedGrant, handle: int, top: Found, withheld: Withheld) -> Iterator[Found]:
    left_out = frozenset(grant.left_out)
    opened: list[tuple[int, str, list[tuple[str, os.stat_result]]]] = []

    def enter(found: Found, parent: int, name: str) -> None:
        listing = _open_listing(grant, found, parent, name, withheld)
        if listing is None:
            return
        if len(opened) >= MAX_DEPTH:
            os.close(listing)
            raise too_deep(grant)
        prefix = f"{found.path}/" if found.path else ""
        opened.append((listing, prefix, _entries(listing, prefix, left_out)))

    try:
        enter(top, handle, ".")
        yield top
        while opened:
            directory, prefix, pending = opened[-1]
            if not pending:
                opened.pop()
                os.close(directory)
                continue
            name, status = pending.pop()
            found = Found(prefix + name, name, directory, status, -1)
            if stat.S_ISDIR(status.st_mode):
                enter(found, directory, name)
            elif stat.S_ISREG(status.st_mode):
                found.withheld = not _may(grant, status, 4, -1, directory, name)
            elif not stat.S_ISLNK(status.st_mode):
                withheld.add(SPECIAL, found.path)
                continue
            if found.withheld and not stat.S_ISDIR(status.st_mode):
                withheld.add(UNREADABLE, found.path)
            yield found
    finally:
        for directory, _, _ in opened:
            os.close(directory)


def _open_listing(
    grant: ShippedGrant, found: Found, parent: int, name: str, withheld: Withheld
) -> int | None:
    """The directory, opened for listing; None, and marked, when nothing below it may be seen."""
    try:
        listing = os.open(name, _DIRECTORY, dir_fd=parent)
    except OSError:  # not ours to read, gone, or something else by now
        listing = None
    if listing is not None:
        found.status = os.fstat(listing)
        if _may(grant, found.status, 5, listing):
            return listing
        os.close(listing)
    found.withheld = True
    withheld.add(UNREADABLE, found.path)
    return None


def _entries(directory: int, prefix: str, left_out: frozenset[str]) -> list[tuple[str, os.stat_result]]:
    """Last name first: they are taken from the end."""
    entries: list[tuple[str, os.stat_result]] = []
    with os.scandir(directory) as listing:
        for entry in listing:
            if prefix + entry.name not in left_out:
                with suppress(FileNotFoundError):
                    entries.append((entry.name, entry.stat(follow_symlinks=False)))
    entries.sort(key=lambda entry: os.fsencode(entry[0]), reverse=True)
    return entries


def _may(
    grant: ShippedGrant, status: os.stat_result, bits: int, opened: int, directory: int = -1, name: str = ""
) -> bool:
    """Whether the workload has any of the permissions `bits` (4 read, 1 pass), by owner, group and others.

    Somebody else's object with an access list is not handed over: the list is not interpreted here.
    """
    if status.st_uid == grant.uid:
        return bool(status.st_mode >> 6 & bits)
    shift = 3 if status.st_gid in grant.groups else 0
    return bool(status.st_mode >> shift & bits) and not _has_access_list(opened, directory, name)


def _has_access_list(opened: int, directory: int, name: str) -> bool:
    path = f"/proc/self/fd/{opened}" if opened >= 0 else f"/proc/self/fd/{directory}/{name}"
    try:
        # The descriptor's own link is followed, a link in place of the name is not.
        return bool(os.getxattr(path, "system.posix_acl_access", follow_symlinks=opened >= 0))
    except OSError:
        return False


def inside_ids(grant: ShippedGrant, status: os.stat_result) -> tuple[int, int]:
    """(uid, gid) that the object has in the guest."""
    return (
        grant.inside[0] if status.st_uid == grant.uid else NOBODY,
        grant.inside[1] if status.st_gid in grant.groups else NOBODY,
    )


def open_file(grant: ShippedGrant, found: Found) -> int | None:
    """A regular file, opened for reading; None, and withheld, when it is gone, or not to be read by now.

    `found.status` becomes that of the open file.
    """
    found.withheld = True
    try:
        if found.opened >= 0:
            opened = os.open(f"/proc/self/fd/{found.opened}", _FILE & ~os.O_NOFOLLOW)
        else:
            opened = os.open(found.name, _FILE, dir_fd=found.directory)
    except OSError:
        return None
    status = os.fstat(opened)
    if not stat.S_ISREG(status.st_mode) or not _may(grant, status, 4, opened):
        os.close(opened)
        return None
    found.status = status
    found.withheld = False
    return opened


def object_changed(grant: ShippedGrant) -> LaunchFailed:
    return LaunchFailed(
        Problem("object_changed", grant.pointer, f"{grant.path!r} is not the object that was checked"),
        retryable=True,
    )


def too_deep(grant: ShippedGrant) -> LaunchFailed:
    return LaunchFailed(
        Problem(
            "grant_too_deep",
            grant.pointer,
            f"{grant.path!r} has directories more than {MAX_DEPTH} deep, too deep to be copied to a virtual"
            " machine",
            fix="grant only the directories that are needed",
        )
    )
