"""Headers of a tar archive (POSIX ustar, and pax where that does not suffice). Pure."""

from __future__ import annotations

import os
import stat

from backends.frozen import frozen

__all__ = ["BLOCK", "END", "Member", "header", "padding"]

BLOCK = 512
END = bytes(2 * BLOCK)
_TYPES = {stat.S_IFREG: b"0", stat.S_IFDIR: b"5", stat.S_IFLNK: b"2"}
_NAME_MOST = 100
_SIZE_MOST = 0o77777777777
_SECOND = 1_000_000_000


@frozen
class Member:
    """One entry: `mode` with its type, `ids` (uid, gid), `target` of a link, `size` of a file's content."""

    name: str
    mode: int
    ids: tuple[int, int]
    mtime_ns: int = 0
    size: int = 0
    target: str = ""


def header(member: Member) -> bytes:
    """What stands before the content: names of any length and bytes, times to the nanosecond."""
    name, target = os.fsencode(member.name), os.fsencode(member.target)
    seconds, rest = divmod(member.mtime_ns, _SECOND)
    records = b""
    if len(name) > _NAME_MOST or not name.isascii():
        records += _record(b"path", name)
    if len(target) > _NAME_MOST or not target.isascii():
        records += _record(b"linkpath", target)
    if member.size > _SIZE_MOST:
        records += _record(b"size", b"%d" % member.size)
    if rest or not 0 <= seconds <= _SIZE_MOST:
        records += _record(b"mtime", _decimal(member.mtime_ns))
    kind = _TYPES[stat.S_IFMT(member.mode)]
    seconds = min(max(seconds, 0), _SIZE_MOST)
    size = min(member.size, _SIZE_MOST)
    own = _ustar(name, kind, stat.S_IMODE(member.mode), member.ids, seconds, size, target)
    if not records:
        return own
    extended = _ustar(b"pax", b"x", 0o600, (0, 0), 0, len(records), b"")
    return extended + records + padding(len(records)) + own


def padding(length: int) -> bytes:
    """What fills up the last block of `length` bytes."""
    return bytes(-length % BLOCK)


def _ustar(
    name: bytes, kind: bytes, mode: int, ids: tuple[int, int], seconds: int, size: int, target: bytes
) -> bytes:
    before = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name[:_NAME_MOST].ljust(_NAME_MOST, b"\0"),
        *(mode, *ids, size, seconds),
    )
    after = b"%s%sustar\x0000" % (kind, target[:_NAME_MOST].ljust(_NAME_MOST, b"\0"))
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return (b"%s%06o\0 %s" % (before, checksum, after)).ljust(BLOCK, b"\0")


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE`` and a line feed; the length counts its own digits too."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _decimal(nanoseconds: int) -> bytes:
    sign, (seconds, rest) = b"-" if nanoseconds < 0 else b"", divmod(abs(nanoseconds), _SECOND)
    return sign + (b"%d.%09d" % (seconds, rest)).rstrip(b"0").rstrip(b".")
