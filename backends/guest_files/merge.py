"""What the guest changed, and what the host changed meanwhile, into steps and conflicts. Pure.

Only what the guest changed is applied; what only the host changed stays the host's. Both changed: the host's
stays as it is, and the guest's is kept beside it. Modification times alone are no change.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator, Mapping
from enum import Enum

from backends.frozen import frozen
from backends.guest_files.snapshot import Host, Shipped

__all__ = ["Clash", "Does", "GuestObject", "Merged", "Step", "interesting", "kept_name", "merge", "same"]

_NAME_MOST = 255
_PERMISSIONS = 0o777
_ENTER_AND_WRITE = 0o300


@frozen
class GuestObject:
    """One object as it came back. `staged`: the number that its content waits under, None for what is
    unchanged or has none."""

    mode: int
    digest: bytes = b""
    target: str = ""
    staged: int | None = None

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


class Does(Enum):
    CREATE = "create"
    MAKE_DIRECTORY = "make directory"
    REPLACE = "replace"
    REMOVE = "remove"
    MODE = "mode"


@frozen
class Step:
    """`path` is where it happens. `was`: what the host must have there for it, None for nothing at all.

    `staged` is the new object's number, `mode` the new permissions (and type), `origin` the path that it had
    in the guest, when it is kept beside that.
    """

    does: Does
    path: str
    was: Host | None = None
    staged: int | None = None
    mode: int = 0
    origin: str = ""


@frozen
class Clash:
    """`path` was changed by both; `kept_as` has the guest's version, "" when it has no content of its own:
    removed, or other permissions."""

    path: str
    kept_as: str


@frozen
class Merged:
    steps: tuple[Step, ...]
    clashes: tuple[Clash, ...]


def interesting(shipped: Mapping[str, Shipped], guest: Mapping[str, GuestObject]) -> tuple[str, ...]:
    """The paths that the host must be looked at for: what the guest changed, and all directories above."""
    wanted: set[str] = set()
    for path in _changed(shipped, guest):
        while path not in wanted:
            wanted.add(path)
            path = _parent(path)  # noqa: PLW2901 - up to the top, whose parent is itself
    return tuple(sorted(wanted, key=_components))


def merge(
    shipped: Mapping[str, Shipped],
    guest: Mapping[str, GuestObject],
    host: Mapping[str, Host | None],
    left_out: Collection[str],
    suffix: str,
    top_name: str = "",
) -> Merged:
    """Decide.

    Parameters
    ----------
    host: the present state of all `interesting` paths, None for what is not there.
    left_out: paths that were never handed over: whatever the guest has there is a conflict.
    suffix: of the names that the guest's versions are kept under, unknown to the guest.
    top_name: the grant's own name, beside which a single file's version is kept.
    """
    return _Merge(shipped, guest, host, frozenset(left_out), suffix, top_name).run()


def same(was: Host, now: Host | None) -> bool:
    """Whether the host's object is what it was."""
    if now is None or was.kind != now.kind:
        return False
    if was.kind == stat.S_IFDIR:
        return was.mode == now.mode
    return was == now


def kept_name(path: str, suffix: str) -> str:
    """The name beside `path` that the guest's version gets."""
    above, slash, name = path.rpartition("/")
    encoded = name.encode("utf-8", "surrogateescape")[: _NAME_MOST - len(suffix)]
    return above + slash + encoded.decode("utf-8", "surrogateescape") + suffix


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _components(path: str) -> list[str]:
    return path.split("/") if path else []


def _changed(shipped: Mapping[str, Shipped], guest: Mapping[str, GuestObject]) -> Iterator[str]:
    for path, now in guest.items():
        was = shipped.get(path)
        if was is None or (was.mode, was.digest, was.target) != (now.mode, now.digest, now.target):
            yield path
    for path in shipped:
        if path not in guest:
            yield path


class _Merge:
    def __init__(
        self,
        shipped: Mapping[str, Shipped],
        guest: Mapping[str, GuestObject],
        host: Mapping[str, Host | None],
        left_out: frozenset[str],
        suffix: str,
        top_name: str,
    ) -> None:
        self._shipped = shipped
        self._guest = guest
        self._host = host
        self._left_out = left_out
        self._suffix = suffix
        self._top_name = top_name
        self._removals: list[Step] = []
        self._puts: list[Step] = []
        self._modes: list[Step] = []
        self._clashes: list[Clash] = []
        self._places: dict[str, str] = {"": ""}

    def run(self) -> Merged:
        for path in sorted(_changed(self._shipped, self._guest), key=_components):
            now = self._guest.get(path)
            was = self._shipped.get(path)
            if now is None:
                assert was is not None
                self._deleted(path, was)
            elif was is None:
                self._new(path, now)
            else:
                self._altered(path, was, now)
        opened, closed = self._unlocked()
        steps = (*opened, *reversed(self._removals), *self._puts, *reversed(self._modes), *closed)
        return Merged(steps, tuple(self._clashes))

    def _unlocked(self) -> tuple[list[Step], list[Step]]:
        """Directories that the guest changed entries of, and their owner on the host has no write access to
        (the guest may have given it, and taken it back): opened before, closed afterwards."""
        within = {_parent(step.path) for step in (*self._removals, *self._puts)}
        final = {step.path for step in (*self._modes, *self._removals)}
        opened: list[Step] = []
        closed: list[Step] = []
        for path in sorted(within & set(self._host), key=_components):
            there = self._host[path]
            if (
                there is None
                or there.kind != stat.S_IFDIR
                or there.mode & _ENTER_AND_WRITE == _ENTER_AND_WRITE
            ):
                continue
            opened.append(Step(Does.MODE, path, there, mode=there.mode | _ENTER_AND_WRITE))
            if path not in final:
                closed.append(Step(Does.MODE, path, mode=there.mode))
        return opened, closed[::-1]

    def _deleted(self, path: str, was: Shipped) -> None:
        there = self._host[path]
        if there is None:
            return
        if same(was.host, there):
            self._removals.append(Step(Does.REMOVE, path, there))
        else:
            self._clashes.append(Clash(path, ""))

    def _new(self, path: str, now: GuestObject) -> None:
        above = self._place(_parent(path))
        if above != _parent(path):
            self._beside(path, now)
        elif self._host[path] is None and path not in self._left_out:
            self._put(path, now)
        else:
            self._changed_by_both(path, now)

    def _altered(self, path: str, was: Shipped, now: GuestObject) -> None:
        there = self._host[path]
        content = (was.digest, was.target, stat.S_IFMT(was.mode)) != (now.digest, now.target, now.kind)
        if content:
            if was.withheld or self._place(_parent(path)) != _parent(path):
                self._beside(path, now)
            elif not same(was.host, there):
                self._changed_by_both(path, now)
            elif now.kind == stat.S_IFDIR or was.host.kind == stat.S_IFDIR:
                self._removals.append(Step(Does.REMOVE, path, there))
                self._put(path, now)
            else:
                assert now.staged is not None
                self._puts.append(Step(Does.REPLACE, path, there, now.staged, now.mode))
        elif there is not None and same(was.host, there):
            kept_bits = there.mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
            special = kept_bits if now.kind == stat.S_IFDIR else 0
            mode = now.kind | now.mode & _PERMISSIONS | special
            if mode != there.mode and now.kind != stat.S_IFLNK:
                self._modes.append(Step(Does.MODE, path, there, mode=mode))
        else:
            self._clashes.append(Clash(path, ""))

    def _changed_by_both(self, path: str, now: GuestObject) -> None:
        """A directory that both made is one, whatever was there before."""
        if now.kind != stat.S_IFDIR or not self._is_directory(path):
            self._beside(path, now)

    def _put(self, path: str, now: GuestObject, origin: str = "") -> None:
        if now.kind == stat.S_IFDIR:
            self._puts.append(Step(Does.MAKE_DIRECTORY, path, mode=now.mode, origin=origin))
            self._modes.append(Step(Does.MODE, path, mode=now.mode, origin=origin))
            self._places[path] = path
        elif now.staged is not None:
            self._puts.append(Step(Does.CREATE, path, None, now.staged, now.mode, origin))

    def _beside(self, path: str, now: GuestObject) -> None:
        """Keep the guest's version where the host has something else, or nothing any more."""
        if now.kind == stat.S_IFDIR:
            kept = self._keep_directory(path, now)
        else:
            above = self._place(_parent(path))
            moved = above != _parent(path)
            name = path.rpartition("/")[2]
            kept = _join(above, name) if moved else kept_name(path or self._top_name, self._suffix)
            self._put(kept, now, path)
        self._clashes.append(Clash(path, kept))

    def _place(self, directory: str) -> str:
        """Where on the host the children of the guest's `directory` go."""
        if directory in self._places:
            return self._places[directory]
        parent = _parent(directory)
        above = self._place(parent)
        if above == parent and self._is_directory(directory):
            self._places[directory] = directory
        else:
            self._keep_directory(directory, self._guest[directory])
        return self._places[directory]

    def _keep_directory(self, path: str, now: GuestObject) -> str:
        if path in self._places and self._places[path] != path:
            return self._places[path]
        parent = _parent(path)
        above = self._place(parent)
        name = path.rpartition("/")[2]
        kept = _join(above, name) if above != parent else kept_name(path, self._suffix)
        self._put(kept, now, path)
        self._places[path] = kept
        return kept

    def _is_directory(self, path: str) -> bool:
        there = self._host[path]
        return there is not None and there.kind == stat.S_IFDIR and path not in self._left_out


def _join(above: str, name: str) -> str:
    return f"{above}/{name}" if above else name
