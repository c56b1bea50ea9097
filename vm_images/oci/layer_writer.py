"""Entries of our own making: names, owners, modes and times are all that they have."""

from __future__ import annotations

import tarfile
from typing import IO

from vm_images.oci.refusals import BadEntry
from vm_images.oci.tree_model import Placed

__all__ = ["LayerWriter"]

_CHUNK = 1 << 20
_MAX_TIME = 1 << 33
_FOLDER_MODE, _BLOCK = 0o755, tarfile.BLOCKSIZE


class LayerWriter:
    """Writes a layer into a file. Paths have no links in them, and none is absolute.

    `left` is how many more bytes it may write, beforehand `at_most`. Whatever is one too many raises
    `BadEntry`, and is not written.
    """

    def __init__(self, file: IO[bytes], at_most: int) -> None:
        self._file = file
        self.left = self._at_most = at_most

    def above(self, placed: Placed, member: tarfile.TarInfo) -> None:
        """Write the directories that an entry lies in and that nobody told of: root's."""
        for folder in placed.made:
            self._header(folder, tarfile.DIRTYPE, _FOLDER_MODE, None, time=_time(member))

    def root(self) -> None:
        """What the root is unless an entry tells otherwise."""
        self._header(".", tarfile.DIRTYPE, _FOLDER_MODE, None)

    def folder(self, path: str, mode: int, member: tarfile.TarInfo) -> None:
        self._header(path, tarfile.DIRTYPE, mode, member)

    def link(self, path: str, target: str, member: tarfile.TarInfo, kind: bytes) -> None:
        self._header(path, kind, 0o777, member, target=target)

    def marker(self, path: str) -> None:
        self._header(path, tarfile.REGTYPE, 0o600, None)

    def file(self, path: str, mode: int, member: tarfile.TarInfo, source: IO[bytes]) -> int:
        """Write a file; returns the offset of its content. Raises `BadEntry` where `source` is cut off."""
        self._header(path, tarfile.REGTYPE, mode, member, size=member.size)
        padding = -member.size % _BLOCK
        self._spend(member.size + padding)
        offset = self._file.tell()
        source.seek(member.offset_data)
        left = member.size
        while left:
            chunk = source.read(min(left, _CHUNK))
            if not chunk:
                raise BadEntry(
                    "image_damaged", f"it is cut off: {left} of its {member.size} bytes are missing"
                )
            self._file.write(chunk)
            left -= len(chunk)
        self._file.write(bytes(padding))
        return offset

    def end(self) -> None:
        self._spend(2 * _BLOCK)
        self._file.write(bytes(2 * _BLOCK))

    def _header(
        self,
        path: str,
        kind: bytes,
        mode: int,
        member: tarfile.TarInfo | None,
        *,
        target: str = "",
        size: int = 0,
        time: int = 0,
    ) -> None:
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.linkname, entry.size, entry.mtime = kind, mode, target, size, time
        if member is not None:
            entry.uid, entry.gid, entry.mtime = member.uid, member.gid, _time(member)
        header = entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        self._spend(len(header))
        self._file.write(header)

    def _spend(self, size: int) -> None:
        if size > self.left:
            message = f"the layer takes more than {self._at_most} bytes with all that its entries mean"
            raise BadEntry("image_too_large", message)
        self.left -= size


def _time(member: tarfile.TarInfo) -> int:
    return min(max(int(member.mtime), 0), _MAX_TIME)
