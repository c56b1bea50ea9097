"""Paths of a policy, as found on the host, into the ordered view that a sandbox mounts. Pure.

The rules (policy-semantics.md §1): default deny; the most specific canonical path wins; one object listed
under several names gets the strictest access among them; what cannot be told apart, or held, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from backends.base import Access, Effect, FilesystemView, HostPath, ObjectKind, PathState, ViewEntry
from backends.errors import PolicyRefused
from backends.pathnames import within
from mxc_ops.policy.places import Place, nearest_place, tighten
from mxc_ops.policy.refusals import find_problems

__all__ = ["resolve_filesystem"]


def resolve_filesystem(
    paths: Sequence[HostPath], baseline: Sequence[str] = (), own: Sequence[str] = ()
) -> FilesystemView:
    """Decide what to mount where, shallow to deep, so that every path has the access the policy gives it.

    Parameters
    ----------
    paths: what observation found, one per entry of the policy.
    baseline: canonical host paths (directories, files) that the sandbox shows before any entry is applied.
    own: what the sandbox makes itself, such as ``/tmp`` or its link ``/bin``: no link can be made there.

    Raises `PolicyRefused` with every problem at once.
    """
    final, places, decisions = tighten(paths)
    problems = find_problems(paths, final, places)
    if problems:
        raise PolicyRefused(problems)
    masked = [p for p in places.values() if p.access is Access.DENIED and _shows(p.path, places, baseline)]
    links = _links(paths, final, places, baseline, own)
    entries = [_bind(place) for place in places.values() if place.access is not Access.DENIED]
    entries += _pinned_parents(paths, places)
    kept_open = [entry.path for entry in (*entries, *links)]
    entries += [_mask(place, kept_open) for place in masked]
    decisions += _outcomes(paths, places, {place.path for place in masked})
    warnings = tuple(_replaceable_links(paths, final, places))
    return FilesystemView(
        tuple(sorted([*entries, *links], key=_order)), tuple(decisions), warnings, _denied_names(paths)
    )


_RANK = {
    Effect.BIND_READ_WRITE: 0,
    Effect.BIND_READ_ONLY: 1,
    Effect.MASK_DIRECTORY: 2,
    Effect.MASK_FILE: 2,
    Effect.SYMLINK: 3,
}


def _order(entry: ViewEntry) -> tuple[int, int]:
    """Shallow before deep, so that a deeper entry covers a shallower one; equal depth cannot overlap."""
    return (entry.path.count("/") if entry.path != "/" else 0, _RANK[entry.effect])


def _bind(place: Place) -> ViewEntry:
    effect = Effect.BIND_READ_WRITE if place.access is Access.READ_WRITE else Effect.BIND_READ_ONLY
    return ViewEntry(
        effect,
        place.path,
        place.pointer,
        slot=place.slot,
        kind=place.kind,
        owner=place.owner,
        object=place.object,
    )


def _mask(place: Place, kept_open: Iterable[str]) -> ViewEntry:
    directory = place.kind is ObjectKind.DIRECTORY
    return ViewEntry(
        Effect.MASK_DIRECTORY if directory else Effect.MASK_FILE,
        place.path,
        place.pointer,
        slot=place.slot,
        kind=place.kind,
        object=place.object,
        traversable=directory and any(p != place.path and within(p, place.path) for p in kept_open),
    )


def _shows(path: str, places: Mapping[str, Place], baseline: Iterable[str]) -> bool:
    """Whether something of denied `path` would be visible without its mask."""
    above = nearest_place(path, places, itself=False)
    if above is not None:
        return above.access is not Access.DENIED
    return any(within(path, tree) or within(tree, path) for tree in baseline)


def _denied_names(paths: Iterable[HostPath]) -> tuple[str, ...]:
    """As each is written, and where that leads on the host."""
    denied = [path for path in paths if path.grant.access is Access.DENIED]
    return tuple(sorted({name for path in denied for name in (path.canonical, path.grant.path)}))


def _pinned_parents(paths: Iterable[HostPath], places: Mapping[str, Place]) -> Iterable[ViewEntry]:
    """Directories that must keep their names, mounted on themselves: a mount point cannot be renamed."""
    pinned: dict[str, ViewEntry] = {}
    for path in paths:
        for parent in path.parents:
            above = nearest_place(parent.path, places)
            if above is not None and above.path != parent.path and above.access is Access.READ_WRITE:
                pinned[parent.path] = ViewEntry(
                    Effect.BIND_READ_WRITE,
                    parent.path,
                    path.grant.pointer,
                    slot=parent.slot,
                    kind=ObjectKind.DIRECTORY,
                    owner=parent.owner,
                    object=parent.object,
                )
    return pinned.values()


def _replaceable_links(
    paths: Iterable[HostPath], final: Iterable[Access], places: Mapping[str, Place]
) -> Iterator[str]:
    """A link cannot be mounted on itself: what the sandbox may replace names what the sandbox likes."""
    for path, access in zip(paths, final, strict=True):
        for hop in path.hops:
            above = nearest_place(hop.link, places)
            if access is not Access.READ_WRITE and above is not None and above.access is Access.READ_WRITE:
                yield (
                    f"{path.grant.pointer}: {path.grant.path!r} leads through the link {hop.link!r}, which"
                    f" the sandbox may replace: later runs then find something else; write {path.canonical!r}"
                )


def _links(
    paths: Iterable[HostPath],
    final: Iterable[Access],
    places: Mapping[str, Place],
    baseline: Sequence[str],
    own: Sequence[str],
) -> list[ViewEntry]:
    """The symbolic links a user's spelling passes through, where no mounted tree already shows them.

    Never inside a mounted tree: the link would be created on the host.
    """
    links: dict[str, ViewEntry] = {}
    for found, access in zip(paths, final, strict=True):
        if found.state is not PathState.OBJECT or access is Access.DENIED:
            continue
        for hop in found.hops:
            above = nearest_place(hop.link, places)
            mounted = above is not None and above.access is not Access.DENIED
            shown = mounted or any(within(hop.link, tree) for tree in baseline)
            if shown or any(within(path, hop.link) for path in (*baseline, *own)):
                continue
            entry = ViewEntry(Effect.SYMLINK, hop.link, found.grant.pointer, target=hop.target)
            links.setdefault(hop.link, entry)
    return list(links.values())


def _outcomes(paths: Iterable[HostPath], places: Mapping[str, Place], masked: set[str]) -> Iterable[str]:
    for path in paths:
        pointer, written = path.grant.pointer, path.grant.path
        if path.state is PathState.ABSENT:
            if path.grant.access is Access.DENIED:
                yield f"{pointer}: {written!r} is denied and does not exist on the host"
            else:
                yield f"{pointer}: {written!r} is optional and missing: nothing to do"
        elif places[path.canonical].access is Access.DENIED and path.canonical not in masked:
            yield f"{pointer}: {written!r} is denied; nothing of the host's is visible there"
        elif path.canonical != written:
            yield f"{pointer}: {written!r} is {path.canonical!r}"
