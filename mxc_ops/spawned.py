"""A sandbox that runs while its owner does something else: write to it, read from it, signal it, wait."""

from __future__ import annotations

import errno
import io
import os
import select
import struct
from _thread import allocate_lock
from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO, Literal

from backends.base import Running, SandboxRequest, StdinMode, Streams, Timeout
from backends.errors import ConfigError, Problem
from mxc_ops.channels import Capture, Reader
from mxc_ops.deadline import Deadline
from mxc_ops.ends import Descriptor, Ends, descriptor, open_input
from mxc_ops.exchange import exchange, stop, turns
from mxc_ops.one_shot import Prepared
from mxc_ops.pipes import close_end, open_input_pipe
from mxc_ops.result import Result
from mxc_ops.watchdog import watchdog

StreamName = Literal["stdout", "stderr"]


class Process:
    """A command running in a sandbox; a context manager that leaves nothing running.

    The streams are pipes unless descriptors were handed over. `stdout` and `stderr` are read by whoever asks
    for them; what nobody asked for is collected by `wait` into the result, up to the cap. All methods may be
    called from any thread. The policy's timeout holds whether or not anybody waits.
    """

    def __init__(self, prepared: Prepared, ends: Ends) -> None:
        self._owner = os.getpid()
        self._prepared = prepared
        self._lock = allocate_lock()
        self._result: Result | None = None
        self._captures = (Capture(ends.max_output_bytes), Capture(ends.max_output_bytes))
        self._files: dict[str, BinaryIO] = {}
        self._fds: dict[str, int] = {}
        self._running: Running | None = None
        theirs: list[int] = []
        try:
            streams = _open_streams(prepared.request, ends, self._fds, theirs)
            self._running = prepared.launch(streams)
            self._deadline = Deadline(prepared.request.timeout)
            self._watched = watchdog().watch(self._running, self._deadline)
        except BaseException:
            self._abandon()
            raise
        finally:
            for fd in theirs:
                os.close(fd)

    @property
    def pid(self) -> int:
        """The host's process id of the sandbox."""
        return self._live.pid

    @property
    def stdin(self) -> BinaryIO:
        """Buffered writer to the workload's standard input: `flush` sends, `close` ends the input."""
        return self._file("stdin", "wb")

    @property
    def stdout(self) -> BinaryIO:
        """Buffered reader of the workload's output; with a tty, of both its streams."""
        return self._file("stdout", "rb")

    @property
    def stderr(self) -> BinaryIO:
        return self._file("stderr", "rb")

    def chunks(self) -> Iterator[tuple[StreamName, bytes]]:
        """What the workload writes, as it comes, with the stream's name; ends when the sandbox is gone."""
        arrived: deque[tuple[StreamName, bytes]] = deque()
        names: tuple[StreamName, ...] = ("stdout", "stderr")
        readers = [
            Reader(self._fds.pop(name), partial(_note, arrived, name)) for name in names if name in self._fds
        ]
        try:
            for _ in turns(self._live, readers, Deadline(Timeout())):
                while arrived:
                    yield arrived.popleft()
        finally:
            for reader in readers:
                reader.close()

    def wait(self) -> Result:
        """Wait for the end. Closes the standard input unless `stdin` was asked for.

        Raises `LaunchFailed` when the sandbox could not be set up.
        """
        with self._lock:
            if self._result is None:
                self._result = self._conclude()
            return self._result

    def poll(self, timeout_s: float = 0.0) -> Result | None:
        """The result, if the sandbox ends within the time; reads nothing meanwhile."""
        if self._result is None:
            poller = select.poll()
            poller.register(self._live.pidfd, select.POLLIN)
            if not poller.poll(timeout_s * 1000):
                return None
        return self.wait()

    def signal(self, number: int) -> None:
        """Send a signal to every process of the workload."""
        self._live.signal(number)

    def kill(self) -> None:
        """Kill the whole sandbox at once; `wait` tells when it is gone."""
        self._live.kill()

    def resize(self, rows: int, columns: int) -> None:
        """Tell a workload with a tty the size of its window, in characters."""
        if "terminal" not in self._fds:
            raise _not_there("terminal", "the request asks for no tty", "Policy(tty=True)")
        import fcntl
        import termios

        fcntl.ioctl(self._fds["terminal"], termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._abandon()

    def __del__(self) -> None:
        # A fork of the owner holds a copy of this object, but not the sandbox.
        if getattr(self, "_owner", 0) == os.getpid():
            self._abandon()

    @property
    def _live(self) -> Running:
        assert self._running is not None  # only a constructor that raised leaves it unset
        return self._running

    def _conclude(self) -> Result:
        if "stdin" in self._fds:
            close_end(self._fds.pop("stdin"))
        channels = [
            Reader(self._fds.pop(name), capture)
            for name, capture in zip(("stdout", "stderr"), self._captures, strict=True)
            if name in self._fds
        ]
        try:
            ended = exchange(self._live, channels, Deadline(Timeout()))
        except BaseException:
            stop(self._live)
            raise
        finally:
            watchdog().release(self._watched)
            for channel in channels:
                channel.close()
        return self._prepared.conclude(ended, self._deadline.timed_out, self._captures)

    def _file(self, name: str, mode: Literal["rb", "wb"]) -> BinaryIO:
        if name not in self._files:
            if name not in self._fds:
                raise _not_there(
                    name, f"{name} is not a pipe of this process", "do not hand over a descriptor"
                )
            raw = _OurEnd(self._fds.pop(name), readable=mode == "rb")
            self._files[name] = io.BufferedReader(raw) if mode == "rb" else io.BufferedWriter(raw)
        return self._files[name]

    def _abandon(self) -> None:
        if self._running is not None and self._result is None:
            stop(self._running)
            watchdog().release(self._watched)
        while self._fds:
            close_end(self._fds.popitem()[1])
        while self._files:
            file = self._files.popitem()[1]
            try:
                file.close()
            except BrokenPipeError:
                continue  # what was still buffered for the workload
        self._prepared.close()


def _note(arrived: deque[tuple[StreamName, bytes]], name: StreamName, chunk: bytes) -> None:
    arrived.append((name, chunk))


class _OurEnd(io.RawIOBase):
    """A pipe, or a terminal's master side, whose end reads as EIO when all slave sides are shut (pty(7))."""

    def __init__(self, fd: int, *, readable: bool) -> None:
        self._fd = fd
        self._readable = readable

    def fileno(self) -> int:
        return self._fd

    def readable(self) -> bool:
        return self._readable

    def writable(self) -> bool:
        return not self._readable

    def readinto(self, buffer: Any, /) -> int:
        try:
            return os.readv(self._fd, [buffer])
        except OSError as error:
            if error.errno == errno.EIO:
                return 0
            raise

    def write(self, data: Any, /) -> int:
        return os.write(self._fd, data)

    def close(self) -> None:
        if not self.closed:
            close_end(self._fd)
            super().close()


def _open_streams(request: SandboxRequest, ends: Ends, ours: dict[str, int], theirs: list[int]) -> Streams:
    """Fill `ours` (by name) and `theirs` (to be closed after the launch)."""
    if request.tty:
        return _open_terminal(request, ends, ours, theirs)
    stdin = _open_stdin(request, ends, ours, theirs)
    return Streams(
        stdin,
        _open_output("stdout", ends.stdout, ours, theirs),
        _open_output("stderr", ends.stderr, ours, theirs),
    )


def _open_output(name: str, given: Descriptor | None, ours: dict[str, int], theirs: list[int]) -> int:
    if given is not None:
        return descriptor(given, name)
    ours[name], end = os.pipe()
    theirs.append(end)
    return end


def _open_stdin(request: SandboxRequest, ends: Ends, ours: dict[str, int], theirs: list[int]) -> int:
    if request.stdin.mode is StdinMode.INHERIT and ends.stdin is None:
        end, ours["stdin"] = open_input_pipe()
        theirs.append(end)
    elif request.stdin.mode is StdinMode.TEXT:
        # Whatever its size, it needs nobody to feed it.
        theirs.append(os.memfd_create("stdin", os.MFD_CLOEXEC))
        with open(theirs[-1], "wb", closefd=False) as file:
            file.write(request.stdin.content.encode())
        os.lseek(theirs[-1], 0, os.SEEK_SET)
    else:
        theirs.append(open_input(request, ends))
    return theirs[-1]


def _open_terminal(request: SandboxRequest, ends: Ends, ours: dict[str, int], theirs: list[int]) -> Streams:
    if request.stdin.mode is not StdinMode.INHERIT or (ends.stdin, ends.stdout, ends.stderr) != (None,) * 3:
        message = "with a tty, a spawned process is typed to through stdin and read through stdout"
        raise ConfigError(Problem("contradiction", "tty", message, fix="pass no descriptors, or use run()"))
    ours["terminal"], slave = os.openpty()
    theirs.append(slave)
    ours["stdin"] = os.dup(ours["terminal"])
    ours["stdout"] = os.dup(ours["terminal"])
    return Streams(slave, slave, slave, tty=True)


def _not_there(pointer: str, message: str, fix: str) -> ConfigError:
    return ConfigError(Problem("not_a_pipe", pointer, message, fix=fix))
