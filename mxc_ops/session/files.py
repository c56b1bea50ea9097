"""Files of a sandbox, by its folder's descriptor: read whole, replaced in one step, locked."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress

from mxc_ops.session.places import closing, open_file

__all__ = ["UNFINISHED", "append_line", "lock", "probe", "read_file", "replace_file", "touched", "write_all"]

UNFINISHED = ".unfinished"
"""What a file is called while it is written. Only who holds the folder's lock does that."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0005, 0.02


def read_file(name: str, folder: int, most: int) -> bytes:
    """The file's content, or its first `most` + 1 bytes. Raises `Foreign` and `OSError`."""
    with closing(open_file(name, folder, os.O_RDONLY)) as descriptor:
        content = b""
        while len(content) <= most and (part := os.read(descriptor, most + 1 - len(content))):
            content += part
        return content


def replace_file(name: str, folder: int, content: bytes) -> None:
    """Put `content` there in one step: whoever looks, also after a power failure, finds it or what was."""
    with suppress(FileNotFoundError):
        os.unlink(UNFINISHED, dir_fd=folder)
    try:
        with closing(open_file(UNFINISHED, folder, os.O_WRONLY | os.O_CREAT | os.O_EXCL)) as descriptor:
            write_all(descriptor, content)
            os.fdatasync(descriptor)
        os.rename(UNFINISHED, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(UNFINISHED, dir_fd=folder)
        raise


def append_line(name: str, folder: int, line: bytes) -> None:
    """Have one more line at the end, and on the disk; half a line of a dead writer is ended first."""
    with closing(open_file(name, folder, os.O_RDWR | os.O_APPEND | os.O_CREAT)) as descriptor:
        size = os.fstat(descriptor).st_size
        torn = size and os.pread(descriptor, 1, size - 1) != b"\n"
        try:
            write_all(descriptor, b"\n" + line + b"\n" if torn else line + b"\n")
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        os.fdatasync(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def lock(descriptor: int, wait_s: float) -> bool:
    """Take the exclusive flock of an open file for as long as it, or a duplicate of it, is open anywhere.

    Parameters
    ----------
    wait_s: how long to try, while another one has it. Then the answer is False.
    """
    until = time.monotonic() + wait_s
    pause = _FIRST_PAUSE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            left = until - time.monotonic()
            if left <= 0:
                return False
        time.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def touched(name: str, folder: int) -> float:
    """When the file was last touched, in seconds since the epoch; 0 when it is not there."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0


def probe(name: str, folder: int) -> tuple[bool, float]:
    """Whether somebody holds the file's lock, and when the file was last touched, in seconds since the epoch.

    The lock is taken, shared, for an instant: who wants it for good has to try for a moment.
    """
    try:
        descriptor = open_file(name, folder, os.O_RDONLY)
    except FileNotFoundError:
        return False, 0.0
    with closing(descriptor):
        touched_s = os.fstat(descriptor).st_mtime
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True, touched_s
        return False, touched_s
