"""What a sandbox has written for itself alone, as one file: read from outside while it stands still.

A record is a length (4 bytes, little-endian), as much JSON, and the content that it tells of. Parents come
before what is in them. The names and contents are a workload's, and may be anything; the records are ours.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from backends.errors import LaunchFailed, Problem
from backends.frozen import frozen
from backends.guest_files.beneath import open_beneath
from backends.qemu.memory_file import data_ranges, seal

__all__ = ["LENGTH", "Item", "pack", "records"]

LENGTH = struct.Struct("<I")
_MOST = 1 << 20
_LOOK = os.O_PATH | os.O_NOFOLLOW
_MAY_WALK = 0o500
_ATTRIBUTES = "user."
_CONTENT = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@frozen
class Item:
    """One object below the tree that is numbered so; `path` "" is the tree's own folder.

    `parts` are (start, end) of a file's data, the rest of its `size` bytes are holes. `same_as` is an earlier
    path of the same file. `attributes` are the extended ones of the name space ``user``.
    """

    tree: int
    path: str
    mode: int
    mtime_ns: int
    size: int = 0
    parts: tuple[tuple[int, int], ...] = ()
    target: str = ""
    same_as: str = ""
    attributes: Mapping[str, bytes] = {}

    def encode(self) -> bytes:
        told = {name: getattr(self, name) for name in ("tree", "path", "mode", "mtime_ns", "size", "parts")}
        told |= {"target": self.target, "same_as": self.same_as}
        told["attributes"] = {
            name: base64.b64encode(value).decode() for name, value in self.attributes.items()
        }
        text = json.dumps(told).encode()
        return LENGTH.pack(len(text)) + text

    @classmethod
    def decode(cls, text: bytes) -> Item:
        told: dict[str, Any] = json.loads(text)
        told["parts"] = tuple((start, end) for start, end in told["parts"])
        told["attributes"] = {name: base64.b64decode(value) for name, value in told["attributes"].items()}
        return cls(**told)


def records(file: int) -> Iterator[tuple[Item, int]]:
    """Each item, and where in the file its content begins."""
    position, end = 0, os.fstat(file).st_size
    while position < end:
        (length,) = LENGTH.unpack(os.pread(file, LENGTH.size, position))
        position += LENGTH.size
        item = Item.decode(os.pread(file, length, position))
        position += length
        yield item, position
        position += sum(stop - start for start, stop in item.parts)


def pack(trees: Sequence[tuple[str, int]], owner: int) -> tuple[int, int]:
    """A sealed memfd of all that is the workload's in these trees; (descriptor, sockets left out).

    Parameters
    ----------
    trees: (path inside, descriptor of the folder). What is mounted below it is no part of it.
    owner: the workload's uid on the host. What is anybody else's belongs to how the sandbox is set up.

    Raises `LaunchFailed` for a tree that is too deep or holds too many files.
    """
    packing = _Packing(owner)
    try:
        for number, (path, folder) in enumerate(trees):
            packing.add_tree(number, path, folder)
        seal(packing.file)
    except BaseException:
        os.close(packing.file)
        raise
    return packing.file, packing.sockets


class _Packing:
    def __init__(self, owner: int) -> None:
        self.file = os.memfd_create("private-files", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.sockets = 0
        self._owner = owner
        self._count = 0
        self._tree = 0
        self._shown = ""
        self._names: dict[int, str] = {}
        self._unlocked: list[tuple[str, int]] = []

    def add_tree(self, number: int, shown: str, folder: int) -> None:
        self._tree, self._shown = number, shown
        self._names.clear()
        waiting = [""]
        try:
            while waiting:
                path = waiting.pop()
                try:
                    waiting += self._add(folder, path)
                except OSError as error:
                    deep = error.errno == errno.ENAMETOOLONG
                    raise _failed(
                        f"{shown}/{path}", "is too deep" if deep else f"{error.strerror}"
                    ) from error
        finally:
            self._lock_again(folder)

    def _add(self, top: int, path: str) -> list[str]:
        """What is to be added next: the names in it, if it is a folder."""
        try:
            found = open_beneath(top, path, _LOOK, same_mount=True)
        except OSError as error:
            if error.errno == errno.EXDEV:
                return []
            raise
        try:
            status = os.fstat(found)
            if status.st_uid != self._owner and path:
                return []
            if stat.S_ISSOCK(status.st_mode):
                self.sockets += 1
                return []
            if not stat.S_ISDIR(status.st_mode):
                self._note(found, path, status)
                return []
            self._unlock(found, path, status.st_mode)
            self._note(found, path, status)
            with _Reopened(found, _CONTENT | os.O_DIRECTORY, status.st_mode) as opened:
                return [f"{path}/{name}" if path else name for name in os.listdir(opened)]
        finally:
            os.close(found)

    def _unlock(self, found: int, path: str, mode: int) -> None:
        """Its owner, who is not root, may first have to allow it to be gone through."""
        if os.geteuid() != 0 and mode & _MAY_WALK != _MAY_WALK:
            os.chmod(f"/proc/self/fd/{found}", stat.S_IMODE(mode) | _MAY_WALK)
            self._unlocked.append((path, stat.S_IMODE(mode)))

    def _lock_again(self, folder: int) -> None:
        while self._unlocked:
            path, mode = self._unlocked.pop()
            with suppress(OSError):
                found = open_beneath(folder, path, _LOOK, same_mount=True)
                os.chmod(f"/proc/self/fd/{found}", mode)
                os.close(found)

    def _note(self, found: int, path: str, status: os.stat_result) -> None:
        self._count += 1
        if self._count > _MOST:
            raise _failed(self._shown, f"holds more than {_MOST} files")
        mode = status.st_mode
        item: dict[str, Any] = {"path": path, "mode": mode, "mtime_ns": status.st_mtime_ns}
        if stat.S_ISLNK(mode):
            item["target"] = os.readlink("", dir_fd=found)
        elif not stat.S_ISDIR(mode) and status.st_nlink > 1:
            item["same_as"] = self._names.setdefault(status.st_ino, path)
            if item["same_as"] == path:
                item["same_as"] = ""
        if stat.S_ISREG(mode) and not item.get("same_as"):
            with _Reopened(found, _CONTENT, mode) as opened:
                item |= {"size": status.st_size, "parts": tuple(data_ranges(opened))}
                self._write(Item(self._tree, **item, attributes=_attributes(opened)))
                for start, end in item["parts"]:
                    self._copy(opened, start, end)
        elif stat.S_ISDIR(mode):
            with _Reopened(found, _CONTENT | os.O_DIRECTORY, mode) as opened:
                self._write(Item(self._tree, **item, attributes=_attributes(opened)))
        else:
            self._write(Item(self._tree, **item))

    def _write(self, item: Item) -> None:
        rest = memoryview(item.encode())
        while rest:
            rest = rest[os.write(self.file, rest) :]

    def _copy(self, opened: int, start: int, end: int) -> None:
        while start < end:
            copied = os.sendfile(self.file, opened, start, end - start)
            if copied == 0:
                raise OSError(errno.EIO, "it became shorter while it was copied")
            start += copied


class _Reopened:
    """What was only looked at, for reading. Its owner, who is not root, may first have to allow that."""

    def __init__(self, found: int, flags: int, mode: int) -> None:
        self._path = f"/proc/self/fd/{found}"
        self._flags = flags
        self._mode = stat.S_IMODE(mode)
        self._opened = -1

    def __enter__(self) -> int:
        try:
            self._opened = os.open(self._path, self._flags)
        except PermissionError:
            os.chmod(self._path, self._mode | _MAY_WALK)
            try:
                self._opened = os.open(self._path, self._flags)
            finally:
                os.chmod(self._path, self._mode)
        return self._opened

    def __exit__(self, *_: object) -> None:
        os.close(self._opened)


def _attributes(opened: int) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with suppress(OSError):  # a file system without them
        for name in os.listxattr(opened):
            if name.startswith(_ATTRIBUTES):
                found[name] = os.getxattr(opened, name)
    return found


def _failed(path: str, why: str) -> LaunchFailed:
    return LaunchFailed(Problem("not_copied", "", f"{path[:200]!a} cannot be copied: it {why}"))
