"""The erofs format, as much of it as an uncompressed image needs: structures to bytes. Pure.

Of the format (Linux: Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h), this uses: 4 KiB blocks, the
64-byte inode, whose data begin at a block of their own ("flat plain") or follow it in the same block ("flat
inline"). All of it is read by every kernel since 5.4. Names are sorted by their bytes, "." and ".." included.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence

__all__ = ["BLOCK", "INLINE_MOST", "INODE", "MetadataLayout", "directory_data", "directory_size", "inode"]
__all__ += ["superblock"]

BLOCK = 4096
INODE = 64
INLINE_MOST = BLOCK - INODE
_MAGIC = 0xE0F5E1E2
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sI44x")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_ENTRY = struct.Struct("<QHBB")
_EXTENDED = 1
_PLAIN, _INLINE = 0, 2
_SLOT = 32  # an inode's number counts these from the start of the metadata
_TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFLNK: 7}


def superblock(root: int, inodes: int, blocks: int, metadata_block: int) -> bytes:
    """The first block; `root` is the number of the root directory's inode, at most 65535."""
    fields = (_MAGIC, 0, 0, 12, 0, root, inodes, 0, 0, blocks, metadata_block, 0, bytes(16), b"", 0)
    return (bytes(1024) + _SUPER.pack(*fields)).ljust(BLOCK, b"\0")


def inode(
    mode: int, ids: tuple[int, int], mtime_ns: int, size: int, links: int, serial: int, block: int | None
) -> bytes:
    """One inode; its data begin at `block`, or follow it when that is None."""
    layout = _INLINE if block is None else _PLAIN
    seconds, nanoseconds = divmod(max(mtime_ns, 0), 1_000_000_000)
    return _INODE.pack(
        *(_EXTENDED | layout << 1, 0, mode, 0, size, block or 0, serial, *ids),
        *(seconds, nanoseconds, links),
    )


class MetadataLayout:
    """Gives each inode its place, so that neither it nor what follows it crosses a block."""

    def __init__(self) -> None:
        self.end = INODE  # inode number 0 is left free: user programs take it for "no entry"

    def place(self, inline: int) -> int:
        """Byte offset of an inode that `inline` bytes of data follow."""
        length = INODE + -(-inline // INODE) * INODE
        if self.end % BLOCK + length > BLOCK:
            self.end += BLOCK - self.end % BLOCK
        offset = self.end
        self.end += length
        return offset

    @staticmethod
    def number(offset: int) -> int:
        return offset // _SLOT


def directory_size(names: Sequence[bytes]) -> int:
    """Bytes that the directory takes; `names` sorted, "." and ".." among them."""
    full = used = 0
    for name in names:
        length = _ENTRY.size + len(name)
        if used + length > BLOCK:
            full, used = full + BLOCK, 0
        used += length
    return full + used


def directory_data(entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    """A directory's content from (name, inode number, mode), sorted by name."""
    blocks: list[bytes] = []
    pending: list[tuple[bytes, int, int]] = []
    used = 0
    for entry in entries:
        length = _ENTRY.size + len(entry[0])
        if used + length > BLOCK:
            blocks.append(_directory_block(pending).ljust(BLOCK, b"\0"))
            pending, used = [], 0
        pending.append(entry)
        used += length
    blocks.append(_directory_block(pending))
    return b"".join(blocks)


def _directory_block(entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    heads: list[bytes] = []
    offset = _ENTRY.size * len(entries)
    for name, number, mode in entries:
        heads.append(_ENTRY.pack(number, offset, _TYPES[stat.S_IFMT(mode)], 0))
        offset += len(name)
    return b"".join((*heads, *(name for name, _, _ in entries)))
