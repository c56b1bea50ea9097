"""Our ends of a workload's streams: small state machines that never block and belong to no event loop.

A channel names one descriptor and what it waits for; whoever owns the loop (`mxc_ops.exchange` or asyncio's)
calls `step` when the descriptor is ready. Memory is bounded: a `Capture` keeps its cap, a `Relay` one chunk.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from typing import Protocol

from mxc_ops.pipes import close_end

CHUNK_BYTES = 65536
DEFAULT_CAP_BYTES = 16 * 1024 * 1024

Sink = Callable[[bytes], object]


class Capture:
    """Keeps the first `cap_bytes` of a stream and counts the rest."""

    __slots__ = ("_cap_bytes", "_kept", "dropped_bytes")

    def __init__(self, cap_bytes: int) -> None:
        self._cap_bytes = cap_bytes
        self._kept = bytearray()
        self.dropped_bytes = 0

    def __call__(self, chunk: bytes) -> None:
        room = self._cap_bytes - len(self._kept)
        if len(chunk) <= room:
            self._kept += chunk
        else:
            self._kept += chunk[:room]
            self.dropped_bytes += len(chunk) - room

    def getvalue(self) -> bytes:
        return bytes(self._kept)


class Channel(Protocol):
    """One descriptor that a loop watches; `fd` and `events` (poll flags) may change with every step."""

    @property
    def fd(self) -> int: ...
    @property
    def events(self) -> int: ...
    def step(self) -> bool:
        """Do what the readiness allows; False when there is nothing left to do."""
        ...

    def drain(self) -> None:
        """The workload is gone: take what it left behind, wait for nothing."""
        ...

    def close(self) -> None:
        """Close the descriptors; idempotent."""
        ...


class Reader:
    """Hands everything that arrives on `fd` to `sink`. Owns `fd` and makes it non-blocking."""

    __slots__ = ("_sink", "fd")
    events = select.POLLIN

    def __init__(self, fd: int, sink: Sink) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._sink = sink

    def step(self) -> bool:
        chunk = read_ready(self.fd)
        if chunk:
            self._sink(chunk)
        return chunk != b""

    def drain(self) -> None:
        while chunk := read_ready(self.fd):
            self._sink(chunk)

    def close(self) -> None:
        self.fd = close_once(self.fd)


class Feeder:
    """Writes `content` to `fd` as the workload reads it, then closes. Owns `fd` and makes it non-blocking."""

    __slots__ = ("_rest", "fd")
    events = select.POLLOUT

    def __init__(self, fd: int, content: bytes) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._rest = memoryview(content)

    def step(self) -> bool:
        written = write_ready(self.fd, self._rest)
        if written is None:
            return False
        self._rest = self._rest[written:]
        return len(self._rest) > 0

    def drain(self) -> None:
        """Nobody reads any more."""

    def close(self) -> None:
        if self.fd >= 0:
            close_end(self.fd)
            self.fd = -1


class Relay:
    """Copies from `source` to `target`, one chunk in flight. Owns both; both must be non-blocking.

    `at_end` is written after the source's end (a terminal's end-of-file character).
    """

    __slots__ = ("_at_end", "_ended", "_pending", "_source", "_target")

    def __init__(self, source: int, target: int, at_end: bytes = b"") -> None:
        self._source = source
        self._target = target
        self._pending = memoryview(b"")
        self._at_end = at_end
        self._ended = False

    @property
    def fd(self) -> int:
        return self._target if self._pending else self._source

    @property
    def events(self) -> int:
        return select.POLLOUT if self._pending else select.POLLIN

    def step(self) -> bool:
        if not self._pending and not self._take():
            return False
        written = write_ready(self._target, self._pending)
        if written is None:
            return False
        self._pending = self._pending[written:]
        return bool(self._pending) or not self._ended

    def _take(self) -> bool:
        chunk = read_ready(self._source)
        if chunk == b"":
            self._ended = True
            chunk = self._at_end
        self._pending = memoryview(chunk or b"")
        return bool(self._pending) or not self._ended

    def drain(self) -> None:
        """Copy what is there, as long as the target takes it within a second."""
        poller = select.poll()
        poller.register(self._target, select.POLLOUT)
        while self._pending or (self._take() and self._pending):
            written = write_ready(self._target, self._pending) if poller.poll(1000) else None
            if written is None:
                return
            self._pending = self._pending[written:]

    def close(self) -> None:
        self._pending = memoryview(b"")
        self._source = close_once(self._source)
        self._target = close_once(self._target)


class Keys(Relay):
    """What is typed at a terminal, as long as there is somebody for whom."""

    __slots__ = ()

    def drain(self) -> None:
        """Nobody reads any more: what is typed from now on is for the caller's shell."""


def read_ready(fd: int) -> bytes | None:
    """What can be read now: None when nothing is there yet, empty at the end of the stream."""
    try:
        return os.read(fd, CHUNK_BYTES)
    except BlockingIOError:
        return None
    except OSError as error:
        # A terminal's master side answers EIO when the last slave descriptor is gone (tty_ioctl(4), pty(7)).
        if error.errno == errno.EIO:
            return b""
        raise


def write_ready(fd: int, content: memoryview) -> int | None:
    """How many bytes were taken; None when the other end is gone."""
    try:
        return os.write(fd, content[:CHUNK_BYTES]) if content else 0
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return None
    except OSError as error:
        if error.errno == errno.EIO:
            return None
        raise


def close_once(fd: int) -> int:
    """Close `fd` unless it is -1; answers -1, to be stored in its place."""
    if fd >= 0:
        os.close(fd)
    return -1
