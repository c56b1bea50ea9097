"""Where the objects of a policy appear and what access each place ends up with. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backends.base import Access, HostPath, ObjectKind, OtherName, PathState
from backends.frozen import frozen

__all__ = ["Place", "nearest_place", "tighten"]


@frozen
class Place:
    """One canonical path and the access it ends up with; `pointer` names the entry that decided it."""

    path: str
    access: Access
    kind: ObjectKind | None
    pointer: str
    slot: int | None
    object: tuple[int, int]
    owner: tuple[int, int]


def nearest_place(path: str, places: Mapping[str, Place], *, itself: bool = True) -> Place | None:
    """The most specific place that covers canonical `path`; without `itself`, only those above it count."""
    if itself and path in places:
        return places[path]
    while path != "/":
        path = path[: path.rfind("/")] or "/"
        if path in places:
            return places[path]
    return None


def tighten(paths: Sequence[HostPath]) -> tuple[list[Access], dict[str, Place], list[str]]:
    """Give every object the strictest access among its names.

    Returns the final access of each of `paths`, the place of each canonical path (further names of denied and
    read-only objects included), and a line for each access that was tightened.
    """
    strictest: dict[tuple[int, int], HostPath] = {}
    for path in paths:
        if path.state is PathState.OBJECT:
            known = strictest.setdefault((path.device, path.inode), path)
            if path.grant.access.strictness > known.grant.access.strictness:
                strictest[path.device, path.inode] = path
    final: list[Access] = []
    places: dict[str, Place] = {}
    decisions: list[str] = []
    for path in paths:
        if path.state is not PathState.OBJECT:
            final.append(path.grant.access)
            continue
        decider = strictest[path.device, path.inode]
        access = decider.grant.access
        final.append(access)
        pointer = path.grant.pointer
        if access is not path.grant.access:
            pointer = decider.grant.pointer
            decisions.append(
                f"{path.grant.pointer}: {path.grant.path!r} becomes {access.value}: the same object is"
                f" {access.value} at {pointer} ({decider.grant.path!r})"
            )
        place = Place(
            path.canonical,
            access,
            path.kind,
            pointer,
            path.slot,
            object=(path.device, path.inode),
            owner=(path.uid, path.gid),
        )
        _put(places, place)
    for path, access in zip(paths, final, strict=True):
        for other in path.others:
            place = Place(
                other.path, access, other.kind, path.grant.pointer, other.slot, other.object, other.owner
            )
            if _put(places, place):
                decisions.append(_other_name(path, access, other))
    return final, places, decisions


def _put(places: dict[str, Place], place: Place) -> bool:
    """Add a place unless the same path is known with at least that strictness."""
    known = places.get(place.path)
    if known is not None and known.access.strictness >= place.access.strictness:
        return False
    places[place.path] = place
    return True


def _other_name(path: HostPath, access: Access, other: OtherName) -> str:
    return (
        f"{path.grant.pointer}: {other.path!r}, a {other.why} of what {path.grant.path!r} names,"
        f" is {access.value} too"
    )
