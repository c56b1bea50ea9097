"""From a written path to the object: a descriptor, each symbolic link on the way, the true place."""

from __future__ import annotations

import errno
import os
import stat

from backends.base import SymlinkHop
from backends.frozen import frozen
from backends.pathnames import fold

__all__ = ["Arrival", "arrive"]

_OPEN = os.O_PATH | os.O_CLOEXEC
_MOST_LINKS = 40  # the kernel's own bound (path_resolution(7))


@frozen
class Arrival:
    """Where a path leads. Nothing there: no `descriptor`, and `canonical` is where it would be."""

    descriptor: int | None
    canonical: str
    hops: tuple[SymlinkHop, ...] = ()


def arrive(path: str) -> Arrival:
    """Open what the absolute `path` names (`O_PATH`), following links, and find out its canonical path.

    Raises `OSError` for anything but a missing path, also when the object is moved or covered meanwhile.
    """
    # A trailing slash or dot says nothing: /data/ is /data (policy-semantics.md §1.1).
    written = "/" + "/".join(name for name in path.split("/") if name not in ("", "."))
    try:
        opened = os.open(written, _OPEN)
    except (FileNotFoundError, NotADirectoryError):
        return _walk(written)
    try:
        if os.readlink(f"/proc/self/fd/{opened}") == written:
            return Arrival(opened, written)
        walked = _walk(written)
    except BaseException:
        os.close(opened)
        raise
    # The kernel's own walk decides what may be followed (fs.protected_symlinks); ours only takes notes.
    same = walked.descriptor is not None and os.path.samestat(os.fstat(opened), os.fstat(walked.descriptor))
    os.close(opened)
    if not same:
        if walked.descriptor is not None:
            os.close(walked.descriptor)
        raise OSError(errno.ESTALE, "changed while it was looked up")
    return walked


def _walk(written: str) -> Arrival:
    pending = written.split("/")[:0:-1]
    place: list[str] = []
    hops: list[SymlinkHop] = []
    here = os.open("/", _OPEN)
    try:
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            try:
                following = os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=here)
            except (FileNotFoundError, NotADirectoryError):
                os.close(here)
                here = -1
                return Arrival(None, fold("/".join([*place, name, *reversed(pending)])), tuple(hops))
            if stat.S_ISLNK(os.fstat(following).st_mode):
                target = os.readlink("", dir_fd=following)
                os.close(following)
                hops.append(SymlinkHop("/" + "/".join([*place, name]), target))
                if len(hops) > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                pending.extend(reversed(target.split("/")))
                if target.startswith("/"):
                    following, place = os.open("/", _OPEN), []
                else:
                    continue
            elif name == "..":
                del place[-1:]
            else:
                place.append(name)
            os.close(here)
            here = following
        return Arrival(here, _canonical(here, "/" + "/".join(place)), tuple(hops))
    except BaseException:
        if here >= 0:
            os.close(here)
        raise


def _canonical(descriptor: int, walked: str) -> str:
    """The object's path as the kernel knows it, if that is where we went and it leads to the same object."""
    canonical = os.readlink(f"/proc/self/fd/{descriptor}")
    if canonical.casefold() != walked.casefold():  # only the case may differ, where file systems ignore it
        raise OSError(errno.ESTALE, "renamed while it was looked up")
    try:
        there = os.stat(canonical, follow_symlinks=False)
    except FileNotFoundError:
        there = None  # "… (deleted)", or "(unreachable)…"
    if there is None or not os.path.samestat(there, os.fstat(descriptor)):
        raise OSError(errno.ESTALE, "removed or covered while it was looked up")
    return canonical
