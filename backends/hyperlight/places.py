"""Where a run of Hyperlight has what is granted: at ``/host/`` and its last name (backends.md §4). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from backends.base import Access, HostPath, PathState
from backends.errors import PolicyRefused, Problem
from backends.guest_files.places import GuestPlaces

__all__ = ["HOST", "at_host"]

HOST = "/host"


def at_host(paths: Sequence[HostPath]) -> GuestPlaces:
    """One place for each grant, by the last name of the path as it was written.

    Raises `PolicyRefused` for two different objects with one last name, all of them at once.
    """
    taken: dict[str, HostPath] = {}
    roots: dict[tuple[str, str], None] = {}
    problems: list[Problem] = []
    for path in paths:
        name = _last_name(path.grant.path) or _last_name(path.canonical)
        if path.grant.access is Access.DENIED or path.state is not PathState.OBJECT or not name:
            continue
        first = taken.setdefault(name, path)
        if first.canonical != path.canonical:
            problems.append(_collision(path, first, name))
        roots[path.canonical, f"{HOST}/{name}"] = None
    if problems:
        raise PolicyRefused(problems)
    return GuestPlaces(tuple(roots))


def _last_name(path: str) -> str:
    names = [name for name in path.split("/") if name not in ("", ".")]
    return names[-1] if names and names[-1] != ".." else ""


def _collision(path: HostPath, first: HostPath, name: str) -> Problem:
    return Problem(
        "host_name_collision",
        path.grant.pointer,
        f"{path.grant.path!r} and {first.grant.path!r} ({first.grant.pointer}) would both be {HOST}/{name}",
        expected="grants whose last names differ",
        fix="grant the directory that both lie in, or use containment vm, where paths are the host's",
    )
