"""Short ways to write policies and what the host has behind them, for tests of the filesystem policy."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Sequence

import pytest

from backends.base import (
    Access,
    FilesystemView,
    Grant,
    HostPath,
    ObjectKind,
    OtherName,
    PathState,
    SymlinkHop,
)
from backends.errors import PolicyRefused, Problem
from backends.frozen import replace
from mxc_ops.policy.filesystem import resolve_filesystem

RO, RW, DENIED = Access.READ_ONLY, Access.READ_WRITE, Access.DENIED
_LISTS = {RO: "readonlyPaths", RW: "readwritePaths", DENIED: "deniedPaths"}
_MODES = {
    ObjectKind.DIRECTORY: stat.S_IFDIR | 0o755,
    ObjectKind.FILE: stat.S_IFREG | 0o644,
    ObjectKind.OTHER: stat.S_IFSOCK | 0o777,
}
_slots = itertools.count(1000)


def grant(path: str, access: Access, *, optional: bool = False) -> Grant:
    return Grant(path, access, f"/filesystem/{_LISTS[access]}/{path}", optional)


def there(
    path: str,
    access: Access,
    kind: ObjectKind = ObjectKind.DIRECTORY,
    *,
    canonical: str = "",
    same_as: HostPath | None = None,
    hops: Sequence[tuple[str, str]] = (),
    others: Sequence[OtherName] = (),
) -> HostPath:
    """An existing object that the caller may read and write; one of its own unless `same_as` another."""
    slot = next(_slots)
    found = HostPath(
        grant=grant(path, access),
        state=PathState.OBJECT,
        canonical=canonical or path,
        kind=kind,
        device=1,
        inode=slot,
        mode=_MODES[kind],
        readable=True,
        writable=True,
        hops=tuple(SymlinkHop(link, target) for link, target in hops),
        others=tuple(others),
        slot=slot,
    )
    return replace(found, inode=same_as.inode) if same_as else found


def file(path: str, access: Access) -> HostPath:
    return there(path, access, ObjectKind.FILE)


def missing(path: str, access: Access, *, canonical: str = "", optional: bool = False) -> HostPath:
    return HostPath(grant(path, access, optional=optional), PathState.ABSENT, canonical or path)


def unknown(path: str, access: Access) -> HostPath:
    return HostPath(grant(path, access), PathState.UNKNOWN, path, error="Permission denied")


def steps(view: FilesystemView) -> list[tuple[str, str]]:
    """What is done where, in order."""
    return [(entry.effect.value, entry.path) for entry in view.entries]


def refused(*paths: HostPath, baseline: Sequence[str] = ()) -> list[Problem]:
    with pytest.raises(PolicyRefused) as caught:
        resolve_filesystem(paths, baseline)
    return list(caught.value.problems)


def refusal(*paths: HostPath, baseline: Sequence[str] = ()) -> Problem:
    [problem] = refused(*paths, baseline=baseline)
    return problem
