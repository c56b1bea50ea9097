"""Where new content waits, and old content goes, while files are copied back: private directories.

The first one lies beside the grant, else in it: on its own mount, so that a rename is all it takes. A mount
below the grant has one of its own. What lies in them has numbers for names: no name of the guest's is used.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress

from backends.guest_files.beneath import Below, open_beneath, syncfs
from backends.guest_files.journal import Journal, Noted
from backends.linux.mountinfo import mount_id, read_mountinfo
from backends.pathnames import within

__all__ = ["PREFIX", "Staging", "open_target"]

PREFIX = ".mxc-copy-back-"
_BESIDE = "beside"
_JOURNALS = "journals"
_WITHIN = "within:"
_SYNCED_ONE_BY_ONE = 32
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def open_target(noted: Noted, handle: int) -> Generator[tuple[Below, int]]:
    """(what is to be changed, descriptor of the directory beside it or -1), with our present rights."""
    directory, _, name = noted.path.rpartition("/")
    parent = -1
    try:
        with suppress(OSError):
            parent = _parent(noted, handle, directory or "/", name)
        below = Below(handle, handle) if noted.directory else Below(parent, handle, name)
        try:
            yield below, parent
        finally:
            below.close()
    finally:
        if parent >= 0:
            os.close(parent)


def _parent(noted: Noted, handle: int, directory: str, name: str) -> int:
    """The directory that the grant lies in, if it still does, and on the same mount."""
    if noted.directory:
        parent = os.open("..", _PATH | os.O_DIRECTORY, dir_fd=handle)
    else:
        root = os.open("/", _PATH)
        try:
            parent = open_beneath(root, directory.lstrip("/"))
        finally:
            os.close(root)
    try:
        there = os.open(name, _PATH, dir_fd=parent)
        try:
            status = os.fstat(there)
            same = (status.st_dev, status.st_ino) == noted.object and mount_id(there) == mount_id(parent)
        finally:
            os.close(there)
        if not same:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    except BaseException:
        os.close(parent)
        raise
    return parent


class Staging:
    """The directories of one copying back, each noted in the journal before it is made.

    Parameters
    ----------
    below: what is to be changed.
    beside: descriptor of the directory that the grant lies in; -1 where that is not known.
    spare: descriptor of a directory of ours, for the content of a file whose directory may not be changed.
    """

    def __init__(self, journal: Journal, below: Below, beside: int, spare: int) -> None:
        self._journal = journal
        self._name = PREFIX + journal.noted.identifier
        self._below = below
        self._beside = beside
        self._spare = spare
        self._areas: list[int] = []
        self._by_mount: dict[int, int] = {}
        self._number = 0
        self._files: set[int] = set()
        path = journal.noted.path
        self._mounts = any(mount.point != path and within(mount.point, path) for mount in read_mountinfo())

    def close(self) -> None:
        while self._areas:
            os.close(self._areas.pop())

    def area(self, index: int) -> int:
        """Descriptor of a staging directory; the first is made when it is first asked for."""
        if index == 0 and not self._areas:
            self._make_first()
        return self._areas[index]

    def number(self) -> int:
        """A name that is free in every area."""
        self._number += 1
        return self._number

    def add_file(self, parts: Iterable[bytes], mode: int, mtime_ns: int) -> int:
        """Store a new file's content; returns its number."""
        number = self.number()
        area = self.area(0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        opened = os.open(str(number), flags, 0o600, dir_fd=area)
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[os.write(opened, view) :]
            os.fchmod(opened, mode & 0o777)
            with suppress(OSError, OverflowError):  # a time that this file system does not know
                os.utime(opened, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(opened)
        self._files.add(number)
        return number

    def add_link(self, target: str) -> int:
        number = self.number()
        os.symlink(target, str(number), dir_fd=self.area(0))
        return number

    def discard(self, number: int) -> None:
        os.unlink(str(number), dir_fd=self._areas[0])
        self._files.discard(number)

    def seal(self) -> None:
        """What waits is on disk when this returns."""
        if len(self._files) > _SYNCED_ONE_BY_ONE:
            syncfs(self._areas[0])
            return
        for number in self._files:
            try:
                opened = os.open(str(number), os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._areas[0])
            except PermissionError:  # a file that its owner may not read
                syncfs(self._areas[0])
                return
            try:
                os.fdatasync(opened)
            finally:
                os.close(opened)

    def area_for(self, directory: int, path: str) -> int:
        """Index of the area on the mount of `directory`, whose relative path is `path`."""
        self.area(0)
        if not self._mounts or self._below.single:
            return 0
        mount = mount_id(directory)
        if mount not in self._by_mount:
            self._by_mount.setdefault(mount_id(self._below.top), 0)
        if mount not in self._by_mount:
            self._make(f"{_WITHIN}{path}")
            self._by_mount[mount] = len(self._areas) - 1
        return self._by_mount[mount]

    def move(self, number: int, area: int) -> None:
        """Have what waits as `number` in the first area in another one, on another file system."""
        if area == 0:
            return
        name = str(number)
        old, new = self._areas[0], self._areas[area]
        status = os.stat(name, dir_fd=old, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=old), name, dir_fd=new)
        else:
            _copy(old, new, name, status)
        self.discard(number)

    def reopen(self) -> bool:
        """Find the areas of an earlier process again; False when one is not there any more."""
        with suppress(FileNotFoundError):
            for place in self._journal.areas:
                opened = self._at(place, lambda directory: os.open(self._name, _OPEN, dir_fd=directory))
                self._areas.append(opened)
            return True
        return False

    def remove(self) -> list[str]:
        """Remove the areas with what is left in them; returns the places of those that could not be."""
        left: list[str] = []
        for index, place in enumerate(self._journal.areas):
            try:
                if index < len(self._areas):
                    _empty(self._areas[index])
                self._at(place, lambda directory: os.rmdir(self._name, dir_fd=directory))
            except FileNotFoundError:
                continue
            except OSError:
                left.append(place)
        return left

    def _make_first(self) -> None:
        if self._beside >= 0:
            with suppress(PermissionError):
                self._make(_BESIDE)
                return
        self._make(_JOURNALS if self._below.single else _WITHIN)

    def _make(self, place: str) -> None:
        if place in self._journal.areas:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), place)
        self._journal.add_area(place)
        try:
            self._at(place, lambda directory: os.mkdir(self._name, 0o700, dir_fd=directory))
        except OSError:
            self._journal.drop_area()
            raise
        self._areas.append(self._at(place, lambda directory: os.open(self._name, _OPEN, dir_fd=directory)))

    def _at(self, place: str, work: Callable[[int], int | None]) -> int:
        if place == _JOURNALS:
            return work(self._spare) or 0
        if place == _BESIDE:
            return work(self._beside) or 0
        directory = open_beneath(self._below.top, place.removeprefix(_WITHIN))
        try:
            return work(directory) or 0
        finally:
            os.close(directory)


def _copy(old: int, new: int, name: str, status: os.stat_result) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=old)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=new)
        try:
            offset = 0
            while copied := os.sendfile(target, source, offset, 1 << 30):
                offset += copied
            os.fchmod(target, status.st_mode & 0o777)
            os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
            os.fdatasync(target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _empty(area: int) -> None:
    """Only files and links are ever put there: a directory with something in it would be somebody else's."""
    for name in os.listdir(area):
        try:
            os.unlink(name, dir_fd=area)
        except (IsADirectoryError, PermissionError):
            os.rmdir(name, dir_fd=area)
