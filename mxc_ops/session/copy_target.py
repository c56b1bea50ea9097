"""What is got from a sandbox, onto the host: nothing of it lands anywhere but in what was named.

The archive is made into a tree of its own beside the destination, which takes its place when it is complete.
Everything is made below open directories, exclusively, and no link is followed: neither one of the archive's
nor one that somebody puts there meanwhile. Owner is the caller, permissions are what the caller's mask
leaves.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from backends.frozen import frozen
from backends.guest_files.beneath import Below, open_beneath
from backends.guest_files.tar_reader import ArchiveRefused, Entry, StreamLimits, read_archive
from mxc_ops.session.copy_errors import DESTINATION, host_failed, not_copied
from mxc_ops.session.trees import remove_tree

__all__ = ["PREFIX", "HostTarget", "receive", "receive_entries"]

PREFIX = ".mxc-ops-cp-"
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = 0o700


@frozen
class _Made:
    """One object of the tree; `mode` is the one that it is to have, with its type."""

    path: str
    mode: int
    mtime_ns: int


class HostTarget:
    """Where something goes, as ``cp -r`` sees it: into an existing directory, else in the place of `path`.

    Parameters
    ----------
    path: the destination. What leads to it is followed as for any program of the caller; a symbolic link in
        its own place is not.
    source_name: what it would be called in an existing directory; "" puts the content there.

    A context manager; entering raises `LaunchFailed` when nothing can be put there.
    """

    def __init__(self, path: str, source_name: str) -> None:
        self.path = path
        self.name = source_name
        self.folder = -1
        self._directory_only = path.endswith("/")

    def __enter__(self) -> HostTarget:
        try:
            self._open()
        except OSError as error:
            raise host_failed(DESTINATION, self.path, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder >= 0:
            os.close(self.folder)
            self.folder = -1

    def check_kind(self, mode: int) -> None:
        """Raise for what cannot be made there."""
        if not stat.S_ISDIR(mode) and (self._directory_only or not self.name):
            raise not_copied(DESTINATION, self.path, "is no directory")

    def _open(self) -> None:
        try:
            mode = os.lstat(self.path).st_mode
        except FileNotFoundError:
            mode = 0
        if stat.S_ISDIR(mode):
            follow = 0 if self._directory_only else os.O_NOFOLLOW
            self.folder = os.open(self.path, _DIRECTORY | follow)
            self._directory_only = False
            if self.name:
                self.path = f"{self.path.rstrip('/')}/{self.name}"
            return
        if stat.S_ISLNK(mode):
            why = "is a symbolic link, which is not followed"
            raise not_copied(DESTINATION, self.path, why, fix=f"name what it leads to, or {self.path}/")
        above, self.name = os.path.split(self.path.rstrip("/"))
        self.folder = os.open(above or ".", _DIRECTORY)


def receive(chunks: Iterator[bytes], target: HostTarget, limits: StreamLimits) -> tuple[int, int]:
    """Take an archive, and put what it holds in its place; (bytes of content, objects).

    Raises `ArchiveRefused` for an archive that is none, leads elsewhere or holds too much: then, as whenever
    it does not come to its end, nothing has changed. `LaunchFailed` names what is in the way.
    """
    return receive_entries(read_archive(chunks, limits), target)


def receive_entries(entries: Iterator[tuple[Entry, Iterator[bytes]]], target: HostTarget) -> tuple[int, int]:
    """The same of what `read_archive` tells, or of a part of it."""
    receiving = _Receiving(target)
    try:
        return receiving.take(entries)
    except OSError as error:
        raise host_failed(DESTINATION, receiving.where, error) from error
    finally:
        receiving.clear()


class _Receiving:
    def __init__(self, target: HostTarget) -> None:
        self.where = target.path
        self._target = target
        self._name = PREFIX + os.urandom(12).hex()
        self._tree: Below | None = None
        self._made: list[_Made] = []
        self._bytes = 0

    def take(self, entries: Iterator[tuple[Entry, Iterator[bytes]]]) -> tuple[int, int]:
        for entry, content in entries:
            self._check(entry)
            self.where = _join(self._target.path, entry.path)
            self._add(entry, content)
        if not self._made:
            raise ArchiveRefused("the archive is empty")
        self.where = self._target.path
        self._place()
        return self._bytes, len(self._made)

    def clear(self) -> None:
        """Remove what did not take its place."""
        if self._tree is not None:
            self._tree.close()
            os.close(self._tree.top)
        with suppress(OSError):
            remove_tree(self._name, self._target.folder)

    def _check(self, entry: Entry) -> None:
        mode = entry.mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and entry.path)):
            raise ArchiveRefused(f"{entry.path or '.'!r} is neither a file nor a directory")
        if not entry.path:
            self._target.check_kind(mode)

    def _add(self, entry: Entry, content: Iterator[bytes]) -> None:
        folder, name = self._place_of(entry.path)
        if stat.S_ISLNK(entry.mode):
            os.symlink(entry.target, name, dir_fd=folder)
            with suppress(OSError, OverflowError):  # a time that this file system does not know
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)
            self._made.append(_Made(entry.path, entry.mode, entry.mtime_ns))
        elif stat.S_ISREG(entry.mode):
            self._add_file(folder, name, entry, content)
            self._made.append(_Made(entry.path, entry.mode, entry.mtime_ns))
        else:
            mode = _make_directory(folder, name, entry.mode)
            self._made.append(_Made(entry.path, mode, entry.mtime_ns))
            if not entry.path:
                opened = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                self._tree = Below(opened, opened)

    def _add_file(self, folder: int, name: str, entry: Entry, content: Iterator[bytes]) -> None:
        opened = os.open(name, _NEW_FILE, stat.S_IMODE(entry.mode), dir_fd=folder)
        try:
            for part in content:
                self._bytes += len(part)
                view = memoryview(part)
                while view:
                    view = view[os.write(opened, view) :]
            with suppress(OSError, OverflowError):
                os.utime(opened, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(opened)

    def _place_of(self, path: str) -> tuple[int, str]:
        if not path:
            return self._target.folder, self._name
        assert self._tree is not None  # else the reader has refused what lies below a file
        return self._tree.parent(path)

    def _place(self) -> None:
        target = self._target
        there = _mode_of(target.folder, target.name) if target.name else stat.S_IFDIR
        if self._tree is None:
            _check_way(there, target.path)
            os.rename(self._name, target.name, src_dir_fd=target.folder, dst_dir_fd=target.folder)
        elif not there:
            _complete(self._tree, self._made)
            os.rename(self._name, target.name, src_dir_fd=target.folder, dst_dir_fd=target.folder)
        elif not stat.S_ISDIR(there):
            raise not_copied(DESTINATION, target.path, "is there already, and no directory")
        else:
            self._merge(self._tree)

    def _merge(self, tree: Below) -> None:
        """Into a directory that stays: a file replaces a file or link, a directory is joined."""
        opened = open_beneath(self._target.folder, self._target.name)
        merged = Below(opened, opened)
        made: list[_Made] = []
        try:
            for each in self._made[1:]:
                self.where = _join(self._target.path, each.path)
                folder, name = merged.parent(each.path)
                there = _mode_of(folder, name)
                if not stat.S_ISDIR(each.mode):
                    _check_way(there, self.where)
                    source, source_name = tree.parent(each.path)
                    os.rename(source_name, name, src_dir_fd=source, dst_dir_fd=folder)
                elif not there:
                    _make_directory(folder, name, each.mode)
                    made.append(each)
                elif not stat.S_ISDIR(there):
                    raise not_copied(DESTINATION, self.where, "is there already, and no directory")
            _complete(merged, made)
        finally:
            merged.close()
            os.close(opened)


def _make_directory(folder: int, name: str, mode: int) -> int:
    """One that can be filled; the mode that it is to have then."""
    os.mkdir(name, stat.S_IMODE(mode) | _FULL, dir_fd=folder)
    return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode & mode


def _complete(tree: Below, made: list[_Made]) -> None:
    """Times and permissions of directories, the inner ones first."""
    for each in reversed(made):
        if stat.S_ISDIR(each.mode):
            folder, name = tree.parent(each.path)
            with suppress(OSError, OverflowError):
                os.utime(name, ns=(each.mtime_ns, each.mtime_ns), dir_fd=folder, follow_symlinks=False)
            tree.set_mode(each.path, None, each.mode)


def _mode_of(folder: int, name: str) -> int:
    """0 when nothing is there."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def _check_way(there: int, path: str) -> None:
    if there and not (stat.S_ISREG(there) or stat.S_ISLNK(there)):
        raise not_copied(DESTINATION, path, "is there already, and no file")


def _join(path: str, below: str) -> str:
    return f"{path.rstrip('/')}/{below}" if below else path
