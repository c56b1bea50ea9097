"""Through which trees, and which mounts of which file systems, a sandbox shows the host's objects."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from backends.base import Access
from backends.frozen import frozen
from backends.linux.mountinfo import Mount, mount_id
from backends.pathnames import relocate, within

__all__ = ["Exposure", "Spot", "Unaccounted"]


# Overlays and network file systems may number their directory entries differently from their files.
_EXACT_INODES = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "f2fs"))


class Unaccounted(Exception):
    """Names of an object may exist that could not be looked for."""


@frozen
class Spot:
    """A place inside a file system: the path `root` below the top of the file system `device` (major:minor).

    A name that was made by link(2) or creat(2) is one spot, through however many mounts it is seen.
    """

    device: str
    root: str


@frozen
class Window:
    """A part of a file system shown at `place`: a mount, or a tree inside one."""

    place: str
    spot: Spot
    mount_id: int


class Exposure:
    """What the policy and the baseline together show of the host.

    Parameters
    ----------
    mounts: the mount table.
    policy: access of each canonical path of the policy, with an open descriptor of it.
    baseline: host paths shown read-only without a grant; missing ones are ignored.

    Raises `Unaccounted` when mounts change meanwhile.
    """

    def __init__(
        self, mounts: Sequence[Mount], policy: Mapping[str, tuple[Access, int]], baseline: Iterable[str]
    ) -> None:
        self.mounts = {mount.mount_id: mount for mount in mounts}
        self.access = {path: access for path, (access, _) in policy.items()}
        self._windows: list[Window] = []
        for path, (access, descriptor) in policy.items():
            if access is not Access.DENIED:
                self._add_windows(path, descriptor)
        for path in baseline:
            self._add_baseline(path)
        self.devices = {window.spot.device for window in self._windows}

    def _add_baseline(self, path: str) -> None:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as failure:
            raise Unaccounted(path) from failure
        try:
            place = os.readlink(f"/proc/self/fd/{descriptor}")
            if place not in self.access:
                self.access[place] = Access.READ_ONLY
                self._add_windows(place, descriptor)
        finally:
            os.close(descriptor)

    def _add_windows(self, place: str, descriptor: int) -> None:
        through = mount_id(descriptor)
        self._windows.append(Window(place, self._spot(place, through), through))
        for mount in self.mounts_below(place):
            self._windows.append(Window(mount.point, Spot(mount.device, mount.root), mount.mount_id))

    def mounts_below(self, place: str) -> list[Mount]:
        """Mounts inside the tree `place`; a mount at `place` itself is not among them."""
        inside = [mount for mount in self.mounts.values() if within(mount.point, place)]
        return [mount for mount in inside if mount.point != place]

    def trees(self, stricter: Access) -> list[str]:
        """Places that are shown with a more permissive access than `stricter`, grants before the baseline."""
        return [path for path, access in self.access.items() if access.strictness < stricter.strictness]

    def devices_in(self, tree: str) -> set[str]:
        """The file systems that `tree` shows."""
        return {window.spot.device for window in self._windows if within(window.place, tree)}

    def shows(self, path: str, stricter: Access) -> bool:
        """Whether the sandbox shows `path` with a more permissive access than `stricter`."""
        while path not in self.access:
            if path == "/":
                return False
            path = path[: path.rfind("/")] or "/"
        return self.access[path].strictness < stricter.strictness

    def spot_of(self, path: str) -> Spot:
        """Where canonical `path` lies in its file system. Raises `Unaccounted`."""
        try:
            descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as failure:
            raise Unaccounted(path) from failure
        try:
            return self.locate(path, descriptor)
        finally:
            os.close(descriptor)

    def locate(self, path: str, descriptor: int) -> Spot:
        """The spot behind `descriptor`, which was opened as the canonical `path`. Raises `Unaccounted`."""
        return self._spot(path, mount_id(descriptor))

    def exact_inodes(self, tree: str) -> bool:
        """Whether directory entries in `tree` carry the inode numbers that stat(2) reports."""
        return all(
            self.mounts[window.mount_id].filesystem in _EXACT_INODES
            for window in self._windows
            if within(window.place, tree)
        )

    def _spot(self, path: str, through: int) -> Spot:
        mount = self.mounts.get(through)
        if mount is None or not within(path, mount.point):  # mounts have changed since the table was read
            raise Unaccounted(path)
        return Spot(mount.device, relocate(path, mount.point, mount.root))

    def names(self, spot: Spot, path: str) -> Iterator[tuple[str, str]]:
        """Names, other than `path`, through which `spot` or something inside it is shown.

        Yields ``(name, original)``: the object at `name` is the one that `original`, `path` or a path in it,
        named. Raises `Unaccounted` when a name cannot be examined.
        """
        for window in self._windows:
            if window.spot.device != spot.device:
                continue
            if within(spot.root, window.spot.root):
                name, original = relocate(spot.root, window.spot.root, window.place), path
            elif within(window.spot.root, spot.root):
                name, original = window.place, relocate(window.spot.root, spot.root, path)
            else:
                continue
            if name != original and self._seen_through(name, window.mount_id):
                yield name, original

    def _seen_through(self, name: str, through: int) -> bool:
        """Whether `name` exists and is seen through that mount, not through one that covers it."""
        try:
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as failure:
            raise Unaccounted(name) from failure
        try:
            return mount_id(descriptor) == through
        finally:
            os.close(descriptor)
