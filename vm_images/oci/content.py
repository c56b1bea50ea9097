"""Files that come from elsewhere: copied to where nobody else can change them, decompressed, told by digest.

How a file is compressed says its content, never its name.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from io import BufferedReader
from pathlib import Path

from backends.errors import PrepFailed
from backends.frozen import frozen, replace
from vm_images.oci.confined import stream_confined
from vm_images.oci.refusals import refused
from vm_images.oci.users_namespace import ImageUsers
from vm_images.store_changes import writing

__all__ = ["Piece", "Plain", "digest_of", "open_source", "read_piece", "require_size", "unpacked"]

_PIECE = 1 << 20
_MEMORY = "--memory=128MiB"  # what a decompressor's window takes; the largest that zstd makes unasked
_DECOMPRESSORS = {
    b"\x1f\x8b": ("gzip", "-dc"),
    b"\x28\xb5\x2f\xfd": ("zstd", "-dcq", _MEMORY),
    b"\xfd7zXZ\x00": ("xz", "-dc", "--memlimit-decompress=128MiB"),
}


@frozen
class Piece:
    """Bytes that lie somewhere: a file, or what an archive has at this place. `size` in bytes, None: all."""

    path: Path
    offset: int = 0
    size: int | None = None


@frozen
class Plain:
    """A file of ours that is not compressed. `digest` is its own, `packed` that of what it was made from.

    Both are SHA-256 as ``sha256:…``; `size` in bytes.
    """

    path: Path
    digest: str
    packed: str
    size: int


@contextmanager
def open_source(path: Path, subject: str) -> Generator[BufferedReader]:
    """A regular file, open for reading. Raises `ConfigError` for anything else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise refused("image_unreadable", subject, f"it cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise refused("image_unreadable", subject, "it is no regular file")
        with open(fd, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(fd)


def digest_of(path: Path, subject: str, at_most: int) -> str:
    """Of a file as it is: ``sha256:…``. Raises `ConfigError` for one of more than `at_most` bytes."""
    with open_source(path, subject) as file:
        require_size(os.fstat(file.fileno()).st_size, at_most, subject, "the archive")
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def unpacked(
    source: Piece, target: Path, users: ImageUsers, *, at_most: int, subject: str, what: str
) -> Plain:
    """Copy a file, decompressed where it is compressed. What is decompressed is a copy: nobody can change it.

    Parameters
    ----------
    target: a new file in a place of ours.
    at_most: its greatest size in bytes.
    subject, what: the archive or reference, and what in it this is, for errors.

    Raises `ConfigError` for one that is too large, or damaged; `PrepFailed` when it cannot be written.
    """
    copy = target.with_name(f"{target.name}.packed")
    with open_source(source.path, subject) as file:
        packed, size = _copy(_pieces(file, source), copy, at_most, subject, what)
    with copy.open("rb") as file:
        head = file.read(max(map(len, _DECOMPRESSORS)))
        words = next((words for magic, words in _DECOMPRESSORS.items() if head.startswith(magic)), None)
        if words is None:
            copy.rename(target)
            return Plain(target, packed, packed, size)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        try:
            with closing(stream_confined(words, users, file)) as pieces:
                digest, size = _copy(pieces, target, at_most, subject, what)
        except PrepFailed as error:
            if error.problems[0].code != "image_tool_failed":
                raise
            message = f"{what} is damaged or cut off: {error.problems[0].message}"
            raise refused("image_damaged", subject, message) from error
    copy.unlink()
    return Plain(target, digest, packed, size)


def require_size(size: int, at_most: int, subject: str, what: str) -> None:
    """Raises `ConfigError` for more than `at_most` bytes."""
    if size > at_most:
        message = f"{what} has more than {at_most} bytes once it is unpacked"
        fix = "if that is right, see --limit of: mxc-ops image import --help"
        raise refused("image_too_large", subject, message, fix=fix)


def read_piece(source: Piece, subject: str, what: str, at_most: int) -> bytes:
    """All of it. Raises `ConfigError` where it is more than `at_most` bytes."""
    with open_source(source.path, subject) as file:
        found = b"".join(_pieces(file, replace(source, size=min(source.size or at_most + 1, at_most + 1))))
    if len(found) > at_most:
        raise refused("image_too_large", subject, f"{what} has more than {at_most} bytes")
    return found


def _pieces(file: BufferedReader, source: Piece) -> Iterator[bytes]:
    file.seek(source.offset)
    left = source.size
    while piece := file.read(_PIECE if left is None else min(left, _PIECE)):
        yield piece
        left = left if left is None else left - len(piece)


def _copy(pieces: Iterator[bytes], target: Path, at_most: int, subject: str, what: str) -> tuple[str, int]:
    seen, size = hashlib.sha256(), 0
    with writing(target.parent):
        written = target.open("xb")
    with written:
        for piece in pieces:
            size += len(piece)
            require_size(size, at_most, subject, what)
            seen.update(piece)
            with writing(target.parent):
                written.write(piece)
        with writing(target.parent):
            written.flush()
    return f"sha256:{seen.hexdigest()}", size
