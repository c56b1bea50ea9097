"""A path in two lists of the filesystem policy gets the stricter access (policy-semantics.md §1.1)."""

from __future__ import annotations

from collections.abc import Iterable

from backends.base import Grant

__all__ = ["collapse", "spelling"]


def spelling(path: str) -> tuple[bool, tuple[str, ...]]:
    """What makes two spellings equal: components split at slash and backslash, empty ones dropped.

    No ``.`` or ``..`` is folded and no case. A relative path never equals an absolute one.
    """
    components = path.replace("\\", "/").split("/")
    return path[:1] in {"/", "\\"}, tuple(component for component in components if component)


def collapse(grants: Iterable[Grant]) -> tuple[tuple[Grant, ...], tuple[str, ...]]:
    """Give every spelling of one path the strictest access that any of them asks for; and what to warn about.

    Order is kept. An entry that only repeats another one is dropped. Two spellings that differ in slash and
    backslash count as equal, but are two objects on Linux: both stay, both with the stricter access.
    """
    listed = list(grants)
    strictest: dict[tuple[bool, tuple[str, ...]], Grant] = {}
    for grant in listed:
        known = strictest.setdefault(spelling(grant.path), grant)
        if grant.access.strictness > known.access.strictness:
            strictest[spelling(grant.path)] = grant
    kept: dict[tuple[str, ...], Grant] = {}
    warnings: list[str] = []
    for grant in listed:
        winner = strictest[spelling(grant.path)]
        result = grant
        if grant.access is not winner.access:
            result = Grant(grant.path, winner.access, winner.pointer, winner.optional)
            warnings.append(
                f"{grant.pointer}: {grant.access.value} is overruled by {winner.pointer},"
                f" which makes the same path {winner.access.value}"
            )
        key = (grant.path[:1], *(component for component in grant.path.split("/") if component))
        kept.setdefault(key, result)
    return tuple(kept.values()), tuple(warnings)
