"""The file that an image is written to: memory when small, else a file on disk that never has a name."""

from __future__ import annotations

import errno
import fcntl
import os

from backends.errors import LaunchFailed, Problem
from backends.guest_files.erofs import BLOCK

__all__ = ["ImageFile"]

_IN_MEMORY_MOST = 64 << 20
_READ_AT_ONCE = 128 << 10
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_NOT_SO = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)


class ImageFile:
    """Blocks are appended to it, from block 1 on; `finish` gives it its first block and its final size.

    Parameters
    ----------
    expected_bytes: about how large the content will be: memory is for at most 64 MiB.
    size_bytes: of the disk that it becomes; what is not written is a hole.
    """

    def __init__(self, expected_bytes: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.blocks = 1
        self._sealed = expected_bytes <= _IN_MEMORY_MOST
        self._directory = os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108 - never given a name
        self._reflinks = not self._sealed
        if self._sealed:
            self.fd = os.memfd_create("mxc-disk", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            self.fd = _unnamed(self._directory)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def append(self, content: bytes) -> int:
        """Write at the next block; returns its number."""
        start = self._reserve(len(content))
        _write(self.fd, content, start * BLOCK)
        return start

    def append_file(self, source: int, length: int, *, holes: bool) -> tuple[int, bool]:
        """Copy `length` bytes of an open file; (first block, whether all of them were there).

        What the file lacks, having become shorter, reads as zeros.
        """
        start = self._reserve(length)
        if length <= _READ_AT_ONCE:
            content = os.pread(source, length, 0)
            _write(self.fd, content, start * BLOCK)
            return start, len(content) == length
        whole = True
        for begin, end in _data_ranges(source, length) if holes else [(0, length)]:
            whole = self._copy(source, begin, end, start * BLOCK) and whole
        return start, whole

    def finish(self, first_block: bytes) -> int:
        """A read-only descriptor of the image, which nobody can change any more."""
        _write(self.fd, first_block, 0)
        os.ftruncate(self.fd, self.size_bytes)
        os.fchmod(self.fd, 0o444)  # a virtual machine without any rights of its own opens it anew
        if self._sealed:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        readable = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        self.close()
        return readable

    def full(self, error: OSError) -> LaunchFailed | None:
        """What to tell when `error` says that there is no room for the image."""
        if error.errno not in _FULL:
            return None
        where = "memory" if self._sealed else repr(self._directory)
        return LaunchFailed(
            Problem(
                "no_space_for_disk",
                "",
                f"the disk of the read-only grants does not fit into {where}: {os.strerror(error.errno)}",
                fix="set TMPDIR to a directory with more room, or grant less",
            ),
            retryable=True,
        )

    def _reserve(self, length: int) -> int:
        start = self.blocks
        self.blocks += -(-length // BLOCK)
        if self.blocks * BLOCK > self.size_bytes:
            raise LaunchFailed(
                Problem(
                    "disk_too_small",
                    "",
                    f"the read-only grants need more than the {self.size_bytes} bytes of their disk",
                    fix="grant only the directories that are needed",
                )
            )
        return start

    def _copy(self, source: int, begin: int, end: int, base: int) -> bool:
        while begin < end:
            copied = self._copy_some(source, begin, end - begin, base + begin)
            if copied == 0:
                return False
            begin += copied
        return True

    def _copy_some(self, source: int, offset: int, count: int, to: int) -> int:
        if self._reflinks:
            try:
                return os.copy_file_range(source, self.fd, count, offset, to)
            except OSError as error:
                if error.errno not in _NOT_SO:
                    raise
                self._reflinks = False
        os.lseek(self.fd, to, os.SEEK_SET)
        return os.sendfile(self.fd, source, offset, count)


def _unnamed(directory: str) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
    import tempfile

    try:
        opened, name = tempfile.mkstemp(prefix="mxc-disk-", dir=directory)
    except FileNotFoundError as error:
        raise LaunchFailed(
            Problem("no_scratch_directory", "", f"{directory!r} does not exist", fix="unset TMPDIR")
        ) from error
    os.unlink(name)
    return opened


def _write(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _data_ranges(source: int, length: int) -> list[tuple[int, int]]:
    """The parts of a file that are no holes."""
    ranges: list[tuple[int, int]] = []
    end = 0
    while end < length:
        try:
            begin = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            return [(0, length)]
        if begin >= length:
            break
        end = min(os.lseek(source, begin, os.SEEK_HOLE), length)
        ranges.append((begin, end))
    return ranges
