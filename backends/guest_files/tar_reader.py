"""A tar stream from a guest that may want to do harm: read in bounds, and believed in nothing.

Understood is what our agent writes: POSIX ustar with the pax records path, linkpath, size and mtime. Anything
else ends the reading: other formats, names that lead elsewhere, entries whose parent is no directory of the
stream, the same name twice. Devices, fifos and sockets are told as such and never made.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from backends.frozen import frozen
from backends.guest_files.tar_writer import BLOCK
from backends.guest_files.tree import MAX_DEPTH

__all__ = ["ArchiveRefused", "Entry", "StreamLimits", "read_archive"]

_NAME_MOST = 255
_PATH_MOST = 4096
_RECORDS_MOST = 16384
_CHUNK = 256 << 10
_KINDS = {
    **{b"0": stat.S_IFREG, b"\0": stat.S_IFREG, b"5": stat.S_IFDIR, b"2": stat.S_IFLNK},
    **{b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO},
}
_TIME = re.compile(rb"(-?\d{1,13})(?:\.(\d{1,30}))?")
_TIME_MOST = 1 << 40  # seconds; the kernel's own bounds are further, and differ between file systems


class ArchiveRefused(Exception):
    """What is wrong with the stream, in words."""


@frozen
class StreamLimits:
    """The most that is taken: bytes of all content, of one file, entries, and bytes of all their names."""

    content_bytes: int
    file_bytes: int
    entries: int
    name_bytes: int


@frozen
class Entry:
    """`path` is relative ("" for the first, ``.``); `mode` has the type and at most permissions of 0777."""

    path: str
    mode: int
    size: int
    mtime_ns: int
    target: str = ""


class _Source:
    """Bytes in the amounts that are asked for."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = memoryview(b"")

    def some(self, most: int) -> bytes:
        """At least one byte. Raises `ArchiveRefused` at the end of the stream."""
        while not self._held:
            try:
                self._held = memoryview(next(self._chunks))
            except StopIteration:
                raise ArchiveRefused("the archive ends in the middle") from None
        part, self._held = self._held[:most], self._held[most:]
        return bytes(part)

    def exactly(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            parts.append(self.some(count))
            count -= len(parts[-1])
        return b"".join(parts)


def read_archive(chunks: Iterator[bytes], limits: StreamLimits) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """Each entry with its content, which is skipped where it is not taken before the next entry.

    Raises `ArchiveRefused`; what was told before that is not to be used either.
    """
    source = _Source(chunks)
    kinds: dict[str, int] = {}
    content = names = 0
    while (found := _next_header(source)) is not None:
        entry = found
        _check_name(entry, kinds)
        kinds[entry.path] = stat.S_IFMT(entry.mode)
        names += len(os.fsencode(entry.path)) + len(os.fsencode(entry.target))
        content += entry.size
        if len(kinds) > limits.entries or names > limits.name_bytes:
            raise ArchiveRefused(f"more than {limits.entries} files, or {limits.name_bytes} bytes of names")
        if entry.size > limits.file_bytes:
            raise ArchiveRefused(f"{entry.path!r} has {entry.size} bytes, more than {limits.file_bytes}")
        if content > limits.content_bytes:
            raise ArchiveRefused(f"more than {limits.content_bytes} bytes of content")
        body = _content(source, entry.size)
        yield entry, body
        for _ in body:
            pass
        source.exactly(-entry.size % BLOCK)


def _content(source: _Source, size: int) -> Iterator[bytes]:
    while size:
        part = source.some(min(size, _CHUNK))
        size -= len(part)
        yield part


def _check_name(entry: Entry, kinds: dict[str, int]) -> None:
    path = entry.path
    if path in kinds:
        raise ArchiveRefused(f"{path!r} comes twice")
    if not path:
        if kinds:
            raise ArchiveRefused("the top does not come first")
        return
    names = path.split("/")
    if any(name in ("", ".", "..") for name in names):
        raise ArchiveRefused(f"{path!r} is no plain relative path")
    encoded = os.fsencode(path)
    longest = max(len(os.fsencode(name)) for name in names)
    if len(encoded) > _PATH_MOST or longest > _NAME_MOST or len(names) > MAX_DEPTH:
        raise ArchiveRefused(f"a path of {len(encoded)} bytes, {len(names)} deep, is too long")
    if kinds.get(path.rpartition("/")[0]) != stat.S_IFDIR:
        raise ArchiveRefused(f"{path!r} does not lie in a directory of the archive")


def _next_header(source: _Source) -> Entry | None:
    records: dict[bytes, bytes] = {}
    while True:
        block = source.exactly(BLOCK)
        if not block.strip(b"\0"):
            return None
        _check_block(block)
        kind = block[156:157]
        size = _octal(block[124:136])
        if kind != b"x":
            return _entry(block, kind, size, records)
        if records or not 0 < size <= _RECORDS_MOST:
            raise ArchiveRefused(f"extended header of {size} bytes, or two of them")
        records = _records(source.exactly(size))
        source.exactly(-size % BLOCK)


def _check_block(block: bytes) -> None:
    if block[257:263] != b"ustar\0":
        raise ArchiveRefused("an entry is not in the POSIX format")
    if _octal(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise ArchiveRefused("the checksum of an entry is wrong")


def _entry(block: bytes, kind: bytes, size: int, records: dict[bytes, bytes]) -> Entry:
    name = block[:100].rstrip(b"\0")
    if prefix := block[345:500].rstrip(b"\0"):
        name = prefix + b"/" + name
    name = records.get(b"path", name)
    if kind not in _KINDS:
        raise ArchiveRefused(f"{name!r} is an entry of type {kind!r}")
    target = records.get(b"linkpath", block[157:257].rstrip(b"\0"))
    size = _decimal(records[b"size"]) if b"size" in records else size
    mode = _KINDS[kind] | _octal(block[100:108]) & 0o777
    is_link = stat.S_ISLNK(mode)
    if b"\0" in name or b"\0" in target:
        raise ArchiveRefused("a name with a NUL")
    if size and not stat.S_ISREG(mode):
        raise ArchiveRefused(f"{name!r} has content and is no file")
    if is_link and not 0 < len(target) < _PATH_MOST:
        raise ArchiveRefused(f"{name!r} is a link to {len(target)} bytes")
    mtime_ns = _nanoseconds(records.get(b"mtime", b"%d" % _octal(block[136:148])))
    return Entry(_relative(name, mode), mode, size, mtime_ns, os.fsdecode(target) if is_link else "")


def _relative(name: bytes, mode: int) -> str:
    if stat.S_ISDIR(mode):
        name = name[:-1] if name.endswith(b"/") else name
    if name == b".":
        return ""
    if not name.startswith(b"./") or len(name) < 3:
        raise ArchiveRefused(f"{name!r} does not begin with './'")
    return os.fsdecode(name[2:])


def _records(content: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    while content:
        digits, space, _ = content[:8].partition(b" ")
        length = _decimal(digits)
        record = content[len(digits) + 1 : length]
        key, equals, value = record[:-1].partition(b"=")
        if not space or not equals or length > len(content) or record[-1:] != b"\n":
            raise ArchiveRefused("an extended header is malformed")
        if key.startswith(b"GNU.") or key in records:
            raise ArchiveRefused(f"an extended header says {key[:40]!r}, or says it twice")
        records[key] = value
        content = content[length:]
    return records


def _octal(field: bytes) -> int:
    digits = field.rstrip(b"\0 ").lstrip(b" ")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise ArchiveRefused(f"{field!r} is no number")
    return int(digits, 8)


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise ArchiveRefused(f"{digits[:40]!r} is no number")
    return int(digits)


def _nanoseconds(time: bytes) -> int:
    match = _TIME.fullmatch(time)
    if match is None or abs(int(match[1])) > _TIME_MOST:
        raise ArchiveRefused(f"{time[:40]!r} is no time")
    fraction = int((match[2] or b"0")[:9].ljust(9, b"0"))
    seconds = int(match[1])
    return seconds * 1_000_000_000 + (-fraction if match[1].startswith(b"-") else fraction)
