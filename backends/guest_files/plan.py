"""The ordered view into what is packed, what is copied, and how the guest is set up. Pure.

Guest paths equal host paths. A grant inside a grant of the same access is part of it; one of another access
is left out of the outer one, which keeps an empty mount point there. What is denied is left out; where
something granted lies below, an empty directory of mode 0111 lets the workload pass, but not look. What the
guest itself has under a denied name is hidden before anything is granted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from backends.base import Effect, FilesystemView, ObjectKind, ViewEntry
from backends.errors import PolicyRefused, Problem
from backends.frozen import frozen, replace
from backends.guest_etc import INSIDE_ID
from backends.guest_files.reserved import PRIVATE, reserved_problems
from backends.inside.agent_protocol import GuestFiles, GuestHide, GuestMount, MountFlag

__all__ = ["FilesPlan", "GuestPut", "GuestStep", "Made", "ShippedGrant", "plan_files"]

_DISK = f"{PRIVATE}/disk"
_COPIES = f"{PRIVATE}/rw"
_PASSAGE = 0o111
_SAFE = MountFlag.NO_SUID | MountFlag.NO_DEV
_BINDS = (Effect.BIND_READ_ONLY, Effect.BIND_READ_WRITE)


@frozen
class Made:
    """Something that is made, not copied: a mount point, a passage through what is denied, a link (`target`).

    `path` is relative to the tree that it is made in ("" is the tree itself); it belongs to root.
    """

    path: str
    kind: ObjectKind
    mode: int
    target: str = ""

    def as_dict(self) -> dict[str, object]:
        made = {"path": self.path, "kind": self.kind.value, "mode": f"{self.mode:04o}"}
        return {**made, "target": self.target} if self.target else dict(made)


@frozen
class ShippedGrant:
    """One tree, or file, that is packed or copied.

    `number` is its name on the disk, or among the copies. `slot` and `object` (device, inode) find it again
    on the host. Files of `uid` are the workload's own in the guest, where it is `inside` (uid, gid); those of
    one of `groups` are its group's; others are nobody's. `left_out` are paths relative to it that are denied,
    or covered by another grant; `made` stands in the guest's copy all the same, parents first.
    """

    number: int
    path: str
    pointer: str
    writable: bool
    kind: ObjectKind
    slot: int
    object: tuple[int, int]
    owner: tuple[int, int]
    uid: int
    groups: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    made: tuple[Made, ...] = ()
    inside: tuple[int, int] = (INSIDE_ID, INSIDE_ID)

    @property
    def place(self) -> str:
        """Where the guest keeps it, before it is bound to its path."""
        return f"{_COPIES if self.writable else _DISK}/{self.number}"

    @property
    def writes_as(self) -> tuple[int, int]:
        """Whose rights (uid, gid) hold for what is copied back: on the host, the workload is this user."""
        return (self.uid, self.groups[0] if self.groups else self.owner[1])

    def as_dict(self) -> dict[str, object]:
        return {
            "path": self.path,
            "access": "readwrite" if self.writable else "readonly",
            "kind": self.kind.value,
            "number": self.number,
            "slot": self.slot,
            "owner": list(self.owner),
            "leftOut": list(self.left_out),
            "made": [made.as_dict() for made in self.made],
        }


@frozen
class GuestPut:
    """An archive to put: of the read-write grant with number `grant`, or of what is only `made`."""

    files: GuestFiles
    grant: int | None = None
    made: tuple[Made, ...] = ()


GuestStep = GuestHide | GuestMount | GuestPut


@frozen
class FilesPlan:
    """`guest_steps` are to be done in order, before the workload starts."""

    read_only: tuple[ShippedGrant, ...] = ()
    writable: tuple[ShippedGrant, ...] = ()
    guest_steps: tuple[GuestStep, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """JSON-safe."""
        return {
            "readOnlyDisk": [grant.as_dict() for grant in self.read_only],
            "copied": [grant.as_dict() for grant in self.writable],
            "guestSteps": [_step_as_dict(step) for step in self.guest_steps],
        }


def plan_files(
    view: FilesystemView,
    *,
    device: str,
    caller: tuple[int, tuple[int, ...]] = (0, ()),
    inside: tuple[int, int] = (INSIDE_ID, INSIDE_ID),
) -> FilesPlan:
    """Lay out the files of one virtual machine.

    Parameters
    ----------
    view: resolved with an empty baseline, and with ``own=(*OWN_PATHS, *SYSTEM_PATHS)``.
    device: the guest's name of the disk with the read-only grants, such as ``/dev/vdb``.
    caller: (uid, groups) of who starts it, the primary group first: what is theirs, and their groups', is so
        inside too. For root, that is the owner of each grant, as with bubblewrap.
    inside: (uid, gid) that the workload runs as in the guest.

    Raises `PolicyRefused` for grants that would replace what the guest needs, and for named pipes and
    sockets, all of them at once.
    """
    problems = (*reserved_problems(view.entries), *_one_ended(view.entries))
    if problems:
        raise PolicyRefused(problems)
    layout = _Layout(caller, inside)
    for entry in view.entries:
        layout.add(entry)
    grants = layout.finished()
    read_only = tuple(grant for grant in grants if not grant.writable)
    writable = tuple(grant for grant in grants if grant.writable)
    hidden = (GuestHide(view.denied),) if view.denied else ()
    steps = (*hidden, *_steps(read_only, writable, layout, device))
    return FilesPlan(read_only, writable, steps)


def _one_ended(entries: Iterable[ViewEntry]) -> Iterator[Problem]:
    for entry in entries:
        if entry.effect in _BINDS and entry.kind is ObjectKind.OTHER:
            yield Problem(
                "grant_not_a_file",
                entry.pointer,
                f"{entry.path!r} is a named pipe or a socket: nobody of the host is at its other end in a"
                " virtual machine",
                expected="a directory or a file",
                fix="use standard input and output, or choose containment bubblewrap",
            )


class _Layout:
    """Collects, entry by entry, which tree each path is part of."""

    def __init__(self, caller: tuple[int, tuple[int, ...]], inside: tuple[int, int]) -> None:
        self._caller = caller
        self._inside = inside
        self._grants: list[ShippedGrant] = []
        self._tree_of: dict[str, int | None] = {}  # path of a bind → index of its tree; of a mask → None
        self._left_out: list[list[str]] = []
        self._made: list[dict[str, Made]] = []
        self.links: list[Made] = []
        self.binds: list[tuple[ShippedGrant, str]] = []
        """(tree, path): that path of the tree is to be bound on itself, in the order of the view."""

    def add(self, entry: ViewEntry) -> None:
        if entry.effect is Effect.SYMLINK:
            self._link(entry)
        elif entry.effect in _BINDS:
            self._bind(entry)
        else:
            tree = self._tree_around(entry.path)
            self._tree_of[entry.path] = None
            if tree is not None:
                self._left_out[tree].append(self._relative(tree, entry.path))

    def finished(self) -> tuple[ShippedGrant, ...]:
        return tuple(
            replace(grant, left_out=tuple(sorted(left_out)), made=tuple(made[path] for path in sorted(made)))
            for grant, left_out, made in zip(self._grants, self._left_out, self._made, strict=True)
        )

    def _bind(self, entry: ViewEntry) -> None:
        assert entry.slot is not None  # the resolver binds only objects that were opened
        assert entry.kind is not None
        above = self._nearest(entry.path)
        around = self._tree_around(entry.path)
        writable = entry.effect is Effect.BIND_READ_WRITE
        part_of = self._tree_of[above] if above is not None else None
        if part_of is not None and self._grants[part_of].writable == writable:
            self._tree_of[entry.path] = part_of
            if writable:  # a mount point keeps its name, as in every sandbox
                self.binds.append((self._grants[part_of], entry.path))
            return
        if around is not None:
            self._make(around, entry.path, entry.kind)
            self._left_out[around].append(self._relative(around, entry.path))
        self._tree_of[entry.path] = len(self._grants)
        uid, groups = self._caller if self._caller[0] else (entry.owner[0], (entry.owner[1],))
        grant = ShippedGrant(
            number=sum(known.writable == writable for known in self._grants),
            path=entry.path,
            pointer=entry.pointer,
            writable=writable,
            kind=entry.kind,
            slot=entry.slot,
            object=entry.object,
            owner=entry.owner,
            uid=uid,
            groups=groups,
            inside=self._inside,
        )
        self._grants.append(grant)
        self._left_out.append([])
        self._made.append({})
        self.binds.append((grant, entry.path))

    def _link(self, entry: ViewEntry) -> None:
        around = self._tree_around(entry.path)
        if around is None:
            self.links.append(Made(entry.path.lstrip("/"), ObjectKind.OTHER, 0o777, entry.target))
        else:  # only below what is denied: elsewhere, the tree shows it itself
            self._make(around, entry.path, ObjectKind.OTHER, entry.target)

    def _make(self, tree: int, path: str, kind: ObjectKind, target: str = "") -> None:
        made = self._made[tree]
        mask = self._nearest(path)
        assert mask is not None
        if self._tree_of[mask] is None:
            above = path[: path.rfind("/")]
            while len(above) >= len(mask):
                relative = self._relative(tree, above)
                made.setdefault(relative, Made(relative, ObjectKind.DIRECTORY, _PASSAGE))
                above = above[: above.rfind("/")]
        relative = self._relative(tree, path)
        mode = 0o777 if target else 0o755 if kind is ObjectKind.DIRECTORY else 0o444
        made[relative] = Made(relative, kind, mode, target)

    def _nearest(self, path: str) -> str | None:
        while (path := path[: path.rfind("/")]) != "":
            if path in self._tree_of:
                return path
        return None

    def _tree_around(self, path: str) -> int | None:
        """The tree that `path` would be part of, if it were not denied or covered."""
        above = self._nearest(path)
        while above is not None and self._tree_of[above] is None:
            above = self._nearest(above)
        return None if above is None else self._tree_of[above]

    def _relative(self, tree: int, path: str) -> str:
        return path[len(self._grants[tree].path) + 1 :]


def _steps(
    read_only: tuple[ShippedGrant, ...],
    writable: tuple[ShippedGrant, ...],
    layout: _Layout,
    device: str,
) -> Iterator[GuestStep]:
    if not read_only and not writable and not layout.links:
        return
    # The directories first, for their mode: a tmpfs begins as 1777, and a mount keeps what it covers.
    private = tuple(Made(path, ObjectKind.DIRECTORY, 0o700) for path in ("", "disk", "rw"))
    yield GuestPut(GuestFiles(PRIVATE), made=private)
    if layout.links:
        # The image may have another link under such a name, as distributions do for alternatives.
        yield GuestPut(GuestFiles("/", replace=True), made=tuple(layout.links))
    if read_only:
        yield GuestMount(_DISK, device, "erofs", _SAFE | MountFlag.READ_ONLY)
    if writable:
        yield GuestMount(_COPIES, "", "tmpfs", _SAFE)
    for grant in writable:
        yield GuestPut(GuestFiles(grant.place), grant=grant.number)
    for grant, path in layout.binds:
        flags = _SAFE | MountFlag.BIND | (MountFlag(0) if grant.writable else MountFlag.READ_ONLY)
        yield GuestMount(path, grant.place + path[len(grant.path) :], flags=flags)


def _step_as_dict(step: GuestStep) -> dict[str, object]:
    if isinstance(step, GuestHide):
        return {"hide": list(step.names)}
    if isinstance(step, GuestPut):
        made = [made.as_dict() for made in step.made]
        return {"put": step.files.path, "grant": step.grant, "made": made}
    flags = [flag.name for flag in MountFlag if flag in step.flags]
    return {
        "mount": step.target,
        "source": step.source,
        "type": step.file_system,
        "flags": flags,
        "bytes": step.size_bytes,
    }
