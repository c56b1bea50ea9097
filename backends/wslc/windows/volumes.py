"""From a filesystem policy to the volumes of a container of Windows' own (pure).

The rules are those of every backend (policy-semantics.md §1): default deny, the strictest access among the
names of one directory, the most specific place wins. What Windows' tool holds of them is less than our
virtual machines do, and what it does not hold is refused:

- A volume is one whole directory. A file is refused (``WSLCVirtualMachine::MountWindowsFolder`` of
  microsoft/WSL takes directories only), and so is one that is missing, which the tool would create.
- Nothing can be denied, or made read-only, below a volume that gives more. Upstream refuses the former
  (backends.md §5, upstream-gaps.md F11). A second mount on top would hide one spelling only: Windows' file
  systems find a name in any case and by its short form, so that ``/mnt/c/code/SECRET`` and ``SECRET~1``
  would lead around it. The reverse, more below less, is given: the other spellings only give less.
- The directory that holds the disks of sessions is in no volume, or the container could change its images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from backends.base import Access, Grant, ObjectKind
from backends.errors import Problem
from backends.frozen import frozen
from backends.wslc.windows.facts import PathFact, WindowsFacts
from backends.wslc.windows.paths import WindowsPath, read_path, shown

__all__ = ["LINUX_FIX", "Volume", "Volumes", "look_up", "plan_volumes"]

LINUX_FIX = "run the same document on Linux, where the virtual machine of mxc-ops holds it"


@frozen
class Volume:
    """One directory of the host's in the container. `pointer` names the entry that decided its access."""

    host: str
    inside: str
    read_only: bool
    pointer: str

    def as_dict(self) -> dict[str, object]:
        return {"windowsPath": self.host, "containerPath": self.inside, "readOnly": self.read_only}


@frozen
class Volumes:
    """`volumes` are in the order in which they are mounted, shallow before deep."""

    volumes: tuple[Volume, ...] = ()
    decisions: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@frozen
class _Place:
    """One entry of the policy: where it was written to lie, where it lies, and what it gives in the end."""

    grant: Grant
    written: WindowsPath
    real: WindowsPath
    fact: PathFact
    access: Access
    decider: Grant

    @property
    def mounted(self) -> bool:
        return self.access is not Access.DENIED and self.fact.kind is not None


def plan_volumes(grants: Sequence[Grant], facts: WindowsFacts, storage: WindowsPath | None) -> Volumes:
    """Decide what is mounted where.

    Parameters
    ----------
    storage: where the session's disk will lie; None: that is not known, and is complained of elsewhere.

    Problems are answered, not raised, so that a user sees all of a request's at once.
    """
    problems: list[Problem] = []
    found: list[_Place] = []
    for grant in grants:
        place = _look_at(grant, facts)
        if isinstance(place, Problem):
            problems.append(place)
        else:
            found.append(place)
    places = _tightened(found)
    for place in places:
        problems += _refusals(place, places, storage)
    volumes = {place.written.inside: _volume(place) for place in places if place.mounted}
    ordered = sorted(volumes.values(), key=lambda volume: (volume.inside.count("/"), volume.inside))
    return Volumes(tuple(ordered), tuple(_outcomes(places)), tuple(problems))


def look_up(written: str, pointer: str, facts: WindowsFacts) -> tuple[WindowsPath, PathFact] | Problem:
    """Where a written path really leads, or why it leads to nothing that could be used."""
    path = read_path(written, pointer)
    if isinstance(path, Problem):
        return path
    fact = facts.paths.get(written)
    if fact is None or fact.error:
        why = fact.error if fact else "it was not looked at"
        fix = f'fsutil file queryFileID "{written}" says what is wrong'
        return Problem("path_unresolved", pointer, f"{shown(written)} could not be looked up: {why}", fix=fix)
    real = read_path(fact.real, pointer)
    if isinstance(real, Problem):
        message = f"{shown(written)} leads to what cannot be given: {real.message}"
        return Problem(real.code, pointer, message, expected=real.expected, fix=real.fix)
    return real, fact


def _look_at(grant: Grant, facts: WindowsFacts) -> _Place | Problem:
    written = read_path(grant.path, grant.pointer)
    if isinstance(written, Problem):
        return written
    found = look_up(grant.path, grant.pointer, facts)
    if isinstance(found, Problem):
        return found
    real, fact = found
    return _Place(grant, written, real, fact, grant.access, grant)


def _tightened(places: Sequence[_Place]) -> list[_Place]:
    """Each with the strictest access among all spellings of its object."""
    strictest: dict[tuple[str, ...], Grant] = {}
    for place in places:
        known = strictest.setdefault(place.real.key, place.grant)
        if place.grant.access.strictness > known.access.strictness:
            strictest[place.real.key] = place.grant
    return [
        _Place(place.grant, place.written, place.real, place.fact, decider.access, decider)
        for place in places
        for decider in (strictest[place.real.key],)
    ]


def _volume(place: _Place) -> Volume:
    read_only = place.access is Access.READ_ONLY
    return Volume(str(place.real), place.written.inside, read_only, place.decider.pointer)


def _refusals(place: _Place, places: Sequence[_Place], storage: WindowsPath | None) -> Iterator[Problem]:
    """At most one of each rule for one entry."""
    if place.access is not Access.DENIED:
        own = _object(place) or _delegation(place) or _storage(place, storage) or _through_link(place, places)
        if own is not None:
            yield own
    above = [other for other in places if other.mounted and _strictly_within(place.real, other.real)]
    looser = next((o for o in above if o.access.strictness < place.access.strictness), None)
    if looser is not None and (place.access is Access.DENIED or place.mounted):
        yield _nested(place, looser)
    if place.fact.links_unaccounted and (shower := _shows_links(place, places)) is not None:
        yield Problem(
            "links_unaccounted",
            place.grant.pointer,
            f"{shown(place.grant.path)} is {place.access.value}, but it, or something in it, has further"
            f" names (hard links) that could not all be looked for; {shown(shower.grant.path)} may show them",
            fix="copy the files instead of hard linking them, or grant a directory on another drive",
        )


def _strictly_within(path: WindowsPath, tree: WindowsPath) -> bool:
    return path.key != tree.key and path.within(tree)


def _object(place: _Place) -> Problem | None:
    """What is wrong with what is there, or with there being nothing."""
    grant = place.grant
    if place.fact.kind is None and not grant.optional:
        return Problem(
            "path_missing",
            grant.pointer,
            f"{shown(grant.path)} does not exist, and Windows' tool would create it",
            expected="an existing directory, or an entry of mxcOps.optionalPaths",
            fix=f'mkdir "{place.real}"',
        )
    if place.fact.kind not in (None, ObjectKind.DIRECTORY):
        return Problem(
            "volume_not_directory",
            grant.pointer,
            f"{shown(grant.path)} is no directory, and a volume of Windows' WSL containers is always one",
            expected="a directory",
            fix=f"move it to a directory of its own and grant that, or {LINUX_FIX}",
        )
    return None


def _delegation(place: _Place) -> Problem | None:
    """policy-semantics.md §1.3: nobody can grant what they do not have."""
    read_only = place.access is Access.READ_ONLY
    if place.fact.kind is None or (place.fact.readable and (place.fact.writable or read_only)):
        return None
    narrower = place.fact.readable and place.grant.access is Access.READ_WRITE
    return Problem(
        "delegation_refused",
        place.grant.pointer,
        f"{shown(place.grant.path)}: the invoking user does not have {'read' if read_only else 'read+write'}"
        " access, so it cannot be delegated to the sandbox",
        fix="list it in readonlyPaths" if narrower else f'icacls "{place.real}" shows who has access',
    )


def _storage(place: _Place, storage: WindowsPath | None) -> Problem | None:
    if storage is None or not (storage.within(place.real) or place.real.within(storage)):
        return None
    return Problem(
        "storage_in_volume",
        place.grant.pointer,
        f"{shown(place.grant.path)} and {shown(str(storage))} overlap: that is where the disks of WSL"
        " containers lie, with their images, which the sandbox must not reach",
        fix="grant a smaller directory, or move the disks with wslc.storagePath",
    )


def _through_link(place: _Place, places: Sequence[_Place]) -> Problem | None:
    """A volume in another one's tree must be what that tree shows at its name."""
    for other in places:
        nested = other.mounted and place.mounted and _strictly_within(place.written, other.written)
        if nested and place.real.key != (*other.real.key, *place.written.key[len(other.written.key) :]):
            return Problem(
                "path_through_link",
                place.grant.pointer,
                f"{shown(place.grant.path)} is {shown(str(place.real))} by a link inside of"
                f" {shown(other.grant.path)}, which is granted too and shows the link there",
                fix=f"write {shown(str(place.real))}",
            )
    return None


def _nested(place: _Place, looser: _Place) -> Problem:
    code = "deny_below_volume" if place.access is Access.DENIED else "read_only_below_volume"
    return Problem(
        code,
        place.grant.pointer,
        f"{shown(place.grant.path)} is {place.access.value}, but lies in {shown(looser.grant.path)}, which is"
        f" {looser.access.value} ({looser.decider.pointer}): Windows finds it by other spellings as well, and"
        " WSL containers have nothing that hides them all",
        fix=f"grant the directories beside it instead of {shown(looser.grant.path)}, or {LINUX_FIX}",
    )


def _shows_links(place: _Place, places: Iterable[_Place]) -> _Place | None:
    """A volume that gives more than `place`, on the same drive: hard links lead no further."""
    return next(
        (
            other
            for other in places
            if other.mounted
            and other.real.drive == place.real.drive
            and other.access.strictness < place.access.strictness
        ),
        None,
    )


def _outcomes(places: Iterable[_Place]) -> Iterator[str]:
    for place in places:
        pointer, written = place.grant.pointer, shown(place.grant.path)
        if place.access is not place.grant.access:
            yield (
                f"{pointer}: {written} becomes {place.access.value}: the same directory is"
                f" {place.access.value} at {place.decider.pointer} ({shown(place.decider.path)})"
            )
        if place.access is Access.DENIED:
            yield f"{pointer}: {written} is denied: it is in no volume"
        elif place.fact.kind is None:
            yield f"{pointer}: {written} is optional and missing: nothing to do"
        else:
            real = "" if str(place.real) == str(place.written) else f" ({shown(str(place.real))})"
            yield f"{pointer}: {written}{real} is {place.written.inside}, {place.access.value}"
