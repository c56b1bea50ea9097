"""Descriptors of the caller, read and written without ever waiting for them and without changing them.

Whether a descriptor blocks belongs to its open file description, which other processes share: a shell whose
terminal was made non-blocking by a program finds its own reads failing. So a pipe or a terminal is opened
once more through /proc, a socket is asked each time (MSG_DONTWAIT). Where neither can be (no right to open
it, the master side of a terminal), only as much is written to a ready descriptor as a pipe with room takes at
once (PIPE_BUF, pipe(7)). Another process at the same end of that pipe could still come first: what is
taken or filled between the look and the read or write makes us wait.

What epoll refuses (files, block devices, /dev/null) is always ready: reading or writing takes as long as the
disk does.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat

__all__ = ["Descriptor"]

_MULTIPLEXER = os.makedev(5, 2)  # opened again, /dev/ptmx is another terminal
_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


class Descriptor:
    """A descriptor of our own for what `fd` refers to; closing it leaves the caller's alone.

    `pollable` tells whether it can be waited for. Raises `OSError` for a number that is not open.
    """

    __slots__ = ("_limit", "_socket", "fd", "pollable")

    def __init__(self, fd: int, *, writing: bool) -> None:
        mode = os.fstat(fd).st_mode
        self._socket: socket.socket | None = None
        self._limit = 1 << 20
        again = _open_again(fd, mode, os.O_WRONLY if writing else os.O_RDONLY)
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) if again is None else again
        try:
            self.pollable = _pollable(self.fd)
            if stat.S_ISSOCK(mode):
                self._socket = socket.socket(fileno=self.fd)
            elif self.pollable and not fcntl.fcntl(self.fd, fcntl.F_GETFL) & os.O_NONBLOCK:
                self._limit = select.PIPE_BUF
        except BaseException:
            os.close(self.fd)
            raise

    @property
    def must_be_ready(self) -> bool:
        """Whether it may only be written to when it was found ready."""
        return self._limit == select.PIPE_BUF

    def read(self, count: int) -> bytes:
        """b"" at the end. Raises `BlockingIOError` when there is nothing yet."""
        if self._socket is not None:
            return self._socket.recv(count, socket.MSG_DONTWAIT)
        return os.read(self.fd, count)

    def write(self, data: memoryview) -> int:
        """How much of `data` was written. Raises `BlockingIOError` when nothing can be."""
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return os.write(self.fd, data[: self._limit])

    def close(self) -> None:
        """Once only."""
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self.fd)


def _open_again(fd: int, mode: int, access: int) -> int | None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    terminal = stat.S_ISCHR(mode) and os.isatty(fd) and os.fstat(fd).st_rdev != _MULTIPLEXER
    if flags & os.O_NONBLOCK or flags & _ACCESS not in (access, os.O_RDWR):
        return None
    if not terminal and not stat.S_ISFIFO(mode):
        return None
    try:
        return os.open(f"/proc/self/fd/{fd}", access | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def _pollable(fd: int) -> bool:
    with select.epoll() as poll:
        try:
            poll.register(fd, 0)
        except PermissionError:
            return False
        return True
