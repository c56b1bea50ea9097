"""What a sandbox had written for itself alone, into another one in which nothing runs yet (effectful)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from backends.errors import LaunchFailed, Problem
from backends.guest_files.beneath import open_beneath
from backends.launched.private_files import Item, records
from backends.linux.delegation import Caller, as_caller

__all__ = ["restore"]

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = 0o700


def restore(file: int, trees: Sequence[tuple[str, int]], user: tuple[int, int]) -> None:
    """Make everything that `private_files.pack` found, with the rights of who owns it and no others.

    Parameters
    ----------
    file: what `pack` answered.
    trees: (path inside, descriptor of the folder), as they were given to `pack`. Nothing is made through a
        link, or in what is mounted below.
    user: the workload's (uid, gid) on the host.

    Raises `LaunchFailed` naming what could not be made.
    """
    as_caller(Caller(*user, (user[1],)), lambda _access: _Restoring(file, trees).run())


class _Restoring:
    def __init__(self, file: int, trees: Sequence[tuple[str, int]]) -> None:
        self._file = file
        self._trees = trees
        self._parent: tuple[int, str, int] | None = None
        self._folders: list[Item] = []

    def run(self) -> None:
        item = None
        try:
            for item, content in records(self._file):
                self._make(item, content)
            for item in reversed(self._folders):  # a folder that is closed cannot be filled
                self._finish_folder(item)
        except OSError as error:
            shown = "" if item is None else f"{self._trees[item.tree][0]}/{item.path}"
            message = f"{shown[:200]!a} of the original cannot be made in its copy: {error.strerror}"
            raise LaunchFailed(Problem("not_copied", "", message)) from error
        finally:
            self._forget_parent()

    def _make(self, item: Item, content: int) -> None:
        kind = stat.S_IFMT(item.mode)
        if kind == stat.S_IFDIR:
            self._folders.append(item)
        if not item.path:
            return
        folder, name = self._place(item.tree, item.path)
        if item.same_as:
            self._link(item, folder, name)
        elif kind == stat.S_IFDIR:
            with suppress(FileExistsError):  # where something is mounted, there is one
                os.mkdir(name, _OPEN, dir_fd=folder)
        elif kind == stat.S_IFREG:
            self._fill(item, os.open(name, _NEW_FILE, 0o600, dir_fd=folder), content)
        elif kind == stat.S_IFLNK:
            os.symlink(item.target, name, dir_fd=folder)
            os.utime(name, ns=(item.mtime_ns, item.mtime_ns), dir_fd=folder, follow_symlinks=False)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, 0o600, dir_fd=folder)
            os.chmod(name, stat.S_IMODE(item.mode), dir_fd=folder)
            os.utime(name, ns=(item.mtime_ns, item.mtime_ns), dir_fd=folder, follow_symlinks=False)

    def _link(self, item: Item, folder: int, name: str) -> None:
        above, _, earlier = item.same_as.rpartition("/")
        source = open_beneath(self._trees[item.tree][1], above, same_mount=True)
        try:
            os.link(earlier, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(source)

    def _fill(self, item: Item, made: int, content: int) -> None:
        try:
            os.ftruncate(made, item.size)
            for start, end in item.parts:
                os.lseek(made, start, os.SEEK_SET)
                stop = content + end - start
                while content < stop:
                    copied = os.sendfile(made, self._file, content, stop - content)
                    if copied == 0:
                        raise OSError(errno.EIO, "the copy is incomplete")
                    content += copied
            _finish(made, item)
        finally:
            os.close(made)

    def _finish_folder(self, item: Item) -> None:
        made = open_beneath(self._trees[item.tree][1], item.path, _FOLDER, same_mount=True)
        try:
            if item.path:
                _finish(made, item)
            else:
                with suppress(OSError):  # the tree's own folder may be the set-up's, or a mask
                    _finish(made, item)
        finally:
            os.close(made)

    def _place(self, tree: int, path: str) -> tuple[int, str]:
        above, _, name = path.rpartition("/")
        if self._parent is None or self._parent[:2] != (tree, above):
            opened = open_beneath(self._trees[tree][1], above, same_mount=True)
            self._forget_parent()
            self._parent = (tree, above, opened)
        return self._parent[2], name

    def _forget_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[2])
            self._parent = None


def _finish(made: int, item: Item) -> None:
    for name, value in item.attributes.items():
        os.setxattr(made, name, value)
    os.fchmod(made, stat.S_IMODE(item.mode))
    os.utime(made, ns=(item.mtime_ns, item.mtime_ns))
