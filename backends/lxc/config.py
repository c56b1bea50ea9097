"""The whole config of one container, as text; made anew for each run, so nothing of another is in it. Pure.

Keys: lxc.container.conf(5). Which ids are taken, and what starts process 1, is known only at launch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from stat import S_IFDIR, S_IFLNK, S_IFREG

from backends.base import Effect, ObjectKind, ViewEntry
from backends.frozen import frozen
from backends.guest_etc import ETC_FILES, HOSTNAME, INSIDE_ID
from backends.inside.protocol import StageEntry
from backends.launched.parts import MASKS, STAGE
from backends.pathnames import within

__all__ = ["Mounts", "config_lines", "late_lines", "plan_mounts", "writable_trees"]

_CAPABILITIES = "setuid setgid setpcap"
"""What process 1 needs to give up these as well, before the workload starts."""

_PRIVATE = {"/tmp": "tmp", "/dev/shm": "shm"}  # noqa: S108 - the container's own
_VAR_TMP = "/var/tmp"  # noqa: S108


@frozen
class Mounts:
    """`lines` of the config, and what must be in the stage for them, in this order."""

    lines: tuple[str, ...]
    entries: tuple[StageEntry, ...]


def config_lines(
    mounts: Mounts, *, apparmor: str, denied: Sequence[str] = (), has_network: bool = False
) -> tuple[str, ...]:
    """The config, but for `late_lines`.

    Parameters
    ----------
    apparmor: a profile's name, "" where the kernel has none.
    denied: names of which the container sees nothing. The kernel tells as much in the container's /sys as in
        the host's, and has not all of it there: where a part is denied, there is none.
    has_network: LXC is started in the container's network, which stays somebody else's: so the kernel lets
        the container mount no /sys of its own, and it is given one.
    """
    tells = not any(within(name, "/sys") for name in denied)
    network = (
        ("lxc.namespace.keep = net",) if has_network else ("lxc.net.0.type = empty", "lxc.net.0.flags = up")
    )
    given = (_line(f"{STAGE}/sys", "/sys", "rbind,create=dir"),) if has_network and tells else ()
    own = " sys:ro" if tells and not has_network else ""
    return (
        f"lxc.uts.name = {HOSTNAME}",
        f"lxc.rootfs.path = dir:{STAGE}/root",
        f"lxc.apparmor.profile = {apparmor or 'unconfined'}",
        f"lxc.cap.keep = {_CAPABILITIES}",
        "lxc.no_new_privs = 1",
        *network,
        *("lxc.autodev = 1", f"lxc.mount.auto = proc:mixed{own}"),
        *given,
        *("lxc.tty.max = 0", "lxc.pty.max = 256", "lxc.console.path = none"),
        *(_line(f"{STAGE}/{name}", place, "bind,create=dir") for place, name in _PRIVATE.items()),
        *mounts.lines,
    )


def late_lines(root: int, workload: tuple[int, int], init: Sequence[str], terminal: str) -> tuple[str, ...]:
    """The rest of it.

    Parameters
    ----------
    root: the host's uid, and gid, of the container's root; `workload`: (uid, gid) of who is `INSIDE_ID`.
    init: the words that start process 1.
    terminal: where the terminal of the workload is; "" without one. Programs look for its name below /dev.
    """
    return (
        *(f"lxc.idmap = {kind} 0 {root} 1" for kind in "ug"),
        *(f"lxc.idmap = {kind} {INSIDE_ID} {number} 1" for kind, number in zip("ug", workload, strict=True)),
        *((_line(terminal, "/dev/console", "bind,create=file"),) if terminal else ()),
        f"lxc.init.cmd = {' '.join(init)}",
    )


def writable_trees(denied: Sequence[str]) -> tuple[str, ...]:
    """Where every container may write, unless the names of `denied` cover it; all of them are there."""
    return (*_PRIVATE, *(() if _is_hidden(_VAR_TMP, denied) else (_VAR_TMP,)))


def plan_mounts(
    entries: Sequence[ViewEntry], denied: Sequence[str], etc: Mapping[str, str] = ETC_FILES
) -> Mounts:
    """What is mounted where, in the order of the view; of `denied` names the image shows nothing.

    `etc`: the files that the container has of its own, with their contents.
    """
    collected = _Collected()
    made = [StageEntry(f"root{path}", S_IFREG | 0o444, content) for path, content in etc.items()]
    made.append(StageEntry(f"root{_VAR_TMP}", S_IFDIR | 0o1777))
    collected.entries += [entry for entry in made if not _is_hidden(entry.path.removeprefix("root"), denied)]
    for entry in entries:
        if entry.effect in MASKS:
            collected.mask(entry)
        elif entry.effect is Effect.SYMLINK:
            collected.link(entry)
        else:
            collected.grant(entry)
    return Mounts(tuple(collected.lines), tuple(collected.entries))


class _Collected:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.entries: list[StageEntry] = []
        self._masks: dict[str, str] = {}  # path of a mask → its place in the stage
        self._grants: list[str] = []

    def mask(self, entry: ViewEntry) -> None:
        place = f"masks/{len(self._masks)}"
        directory = entry.effect is Effect.MASK_DIRECTORY
        mode = (S_IFDIR | (0o111 if entry.traversable else 0)) if directory else S_IFREG
        self._masks[entry.path] = place
        self.entries.append(StageEntry(place, mode))
        self.lines.append(_line(f"{STAGE}/{place}", entry.path, "bind,ro"))

    def link(self, entry: ViewEntry) -> None:
        place = self._inside(entry.path)
        if place.startswith("masks/"):
            self.entries += _passages(place)
        self.entries.append(StageEntry(place, S_IFLNK | 0o777, entry.target))

    def grant(self, entry: ViewEntry) -> None:
        directory = entry.kind is ObjectKind.DIRECTORY
        place = self._inside(entry.path)
        if place.startswith("masks/"):
            self.entries += _passages(place)
            self.entries.append(StageEntry(place, S_IFDIR | 0o555 if directory else S_IFREG | 0o444))
        made = "" if self._tree_around(entry.path) else f",create={'dir' if directory else 'file'}"
        self.lines.append(_line(f"{STAGE}/{len(self._grants)}", entry.path, f"rbind{made}"))
        self._grants.append(entry.path)

    def _tree_around(self, path: str) -> str:
        """The nearest mask or grant that `path` lies in, or ""."""
        return max(
            (tree for tree in (*self._masks, *self._grants) if within(path, tree)), key=len, default=""
        )

    def _inside(self, path: str) -> str:
        """Where something is made for `path`: in the mask that covers it, or in the root."""
        around = self._tree_around(path)
        if around in self._masks:
            return f"{self._masks[around]}{path[len(around) :]}"
        private = next((place for place in _PRIVATE if within(path, place)), "")
        return f"{_PRIVATE[private]}{path[len(private) :]}" if private else f"root{path}"


def _passages(place: str) -> Iterator[StageEntry]:
    """What lies between a mask and what is made in it may be passed, not looked at."""
    parts = place.split("/")
    for length in range(3, len(parts)):
        yield StageEntry("/".join(parts[:length]), S_IFDIR | 0o111)


def _is_hidden(path: str, denied: Sequence[str]) -> bool:
    return any(within(path, name) for name in denied)


def _line(source: str, target: str, options: str) -> str:
    return f"lxc.mount.entry = {source} {_escaped(target[1:])} none {options} 0 0"


def _escaped(path: str) -> str:
    """As getmntent(3) reads it: what would end a field, or the line, is written as an octal number."""
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\" else letter for letter in path)
