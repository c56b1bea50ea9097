"""A guest's memory as a file: copied without its holes, sealed for the clones that share it (effectful).

QEMU 7 opens the file behind its memory for writing even when it maps it privately; only a seal keeps one
clone from changing what the next one starts from (lab §4).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

__all__ = ["copy_data", "data_ranges", "is_sealed", "save_nonzero", "seal", "sealed_copy", "sparse_file"]

_PAGE = 4096
_PIECE = 1 << 20
_ZERO = bytes(_PAGE)


def data_ranges(fd: int) -> Iterator[tuple[int, int]]:
    """(start, end) of everything in the file that is not a hole."""
    size = os.fstat(fd).st_size
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole follows
                return
            raise
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, position


def copy_data(source: int, target: int) -> None:
    """Make `target` (empty) a copy of `source`, holes as holes.

    Raises `OSError`, and `EOFError` when `source` shrinks meanwhile.
    """
    os.ftruncate(target, os.fstat(source).st_size)
    for start, end in data_ranges(source):
        os.lseek(target, start, os.SEEK_SET)
        position = start
        while position < end:
            copied = os.sendfile(target, source, position, end - position)
            if copied == 0:
                raise EOFError("the file became shorter while it was copied")
            position += copied


def save_nonzero(source: int, target: int) -> None:
    """The same, with pages that hold nothing but zeros as holes too."""
    os.ftruncate(target, os.fstat(source).st_size)
    for start, end in data_ranges(source):
        for position in range(start, end, _PIECE):
            piece = os.pread(source, min(_PIECE, end - position), position)
            for offset, length in _nonzero_runs(piece):
                os.pwrite(target, piece[offset : offset + length], position + offset)


def _nonzero_runs(piece: bytes) -> Iterator[tuple[int, int]]:
    run = -1
    for offset in range(0, len(piece), _PAGE):
        if piece[offset : offset + _PAGE] == _ZERO:
            if run >= 0:
                yield run, offset - run
            run = -1
        elif run < 0:
            run = offset
    if run >= 0:
        yield run, len(piece) - run


def seal(fd: int) -> None:
    """From now on nobody can change the memfd, whoever opens it and however."""
    fcntl.fcntl(
        fd,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
    )


def is_sealed(fd: int) -> bool:
    """Whether it is such a memfd."""
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE)
    except OSError:  # no memfd at all
        return False


def sparse_file(name: str, size_bytes: int) -> int:
    """A memfd of that size without content, for whoever it is handed to; the caller closes it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    return fd


def sealed_copy(source: int) -> int:
    """A sealed memfd with the content of `source`; the caller closes it."""
    copy = os.memfd_create("template-memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        copy_data(source, copy)
        seal(copy)
    except BaseException:
        os.close(copy)
        raise
    return copy
