"""What a caller wants at the ends of a workload's streams, and what was opened for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypedDict

from backends.base import SandboxRequest, StdinMode, Streams
from backends.errors import ConfigError, PolicyRefused, Problem
from backends.frozen import frozen
from mxc_ops.channels import DEFAULT_CAP_BYTES, Capture, Channel


class HasFileno(Protocol):
    def fileno(self) -> int: ...


Descriptor = int | HasFileno
OnChunk = Callable[[bytes], object]


class HandedOver(TypedDict, total=False):
    """Keyword arguments of everything that starts a command: descriptors instead of pipes. See `Ends`."""

    stdin: Descriptor | None
    stdout: Descriptor | None
    stderr: Descriptor | None
    max_output_bytes: int


class StreamArguments(HandedOver, total=False):
    """Keyword arguments of `run` and its kin. See `Ends`."""

    input: bytes | None
    on_stdout: OnChunk | None
    on_stderr: OnChunk | None


@frozen
class Ends:
    """What the caller wants at the other ends of the workload's streams.

    Parameters
    ----------
    input: bytes to feed as standard input, closed afterwards.
    stdin: descriptor that stands for ``inherit`` in the request; None is an empty input.
    stdout, stderr: descriptors to hand through; None captures.
    on_stdout, on_stderr: called with every chunk instead of keeping it.
    max_output_bytes: cap for each captured stream; what exceeds it is counted and dropped.
    """

    input: bytes | None = None
    stdin: Descriptor | None = None
    stdout: Descriptor | None = None
    stderr: Descriptor | None = None
    on_stdout: OnChunk | None = None
    on_stderr: OnChunk | None = None
    max_output_bytes: int = DEFAULT_CAP_BYTES


class TakenTerminal(AbstractContextManager["TakenTerminal"], Protocol):
    """The caller's terminal during a run with a tty; see `mxc_ops.terminal`."""

    def close(self) -> None: ...


class Wiring:
    """The workload's descriptors, and our channels. `close` ends whatever is still open.

    `terminal` exists for runs with a tty: entered for the time of the run, it takes over the caller's own.
    """

    def __init__(
        self,
        streams: Streams,
        channels: list[Channel],
        captures: tuple[Capture, Capture],
        workload_ends: list[int],
        terminal: TakenTerminal | None = None,
    ) -> None:
        self.streams = streams
        self.channels = channels
        self.captures = captures
        self.workload_ends = workload_ends
        self.terminal = terminal

    def launched(self) -> None:
        """The workload has its own copies now: ours would keep its streams open."""
        while self.workload_ends:
            os.close(self.workload_ends.pop())

    def close(self) -> None:
        self.launched()
        for channel in self.channels:
            channel.close()
        if self.terminal is not None:
            self.terminal.close()


def input_of(request: SandboxRequest, ends: Ends) -> bytes | None:
    """The bytes to feed, from the caller or the document; None when the input is a descriptor or nothing."""
    if ends.input is None:
        return request.stdin.content.encode() if request.stdin.mode is StdinMode.TEXT else None
    if ends.stdin is not None:
        raise _contradiction("input", "input and stdin exclude each other", "pass one of them")
    if request.stdin.mode is not StdinMode.INHERIT:
        mode = request.stdin.mode.value
        message = f"the request already says where standard input comes from ({mode})"
        raise _contradiction("input", message, "drop input=, or let the request's stdin be 'inherit'")
    return ends.input


def open_input(request: SandboxRequest, ends: Ends) -> int:
    """A descriptor of our own for an input that is not fed: a file, the caller's descriptor, or nothing."""
    if request.stdin.mode is StdinMode.FILE:
        return _open_input_file(request)
    if request.stdin.mode is StdinMode.INHERIT and ends.stdin is not None:
        return os.dup(descriptor(ends.stdin, "stdin"))
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def descriptor(given: Descriptor, name: str) -> int:
    """The number behind what the caller passed; refused when it is not open."""
    fd = given if isinstance(given, int) else given.fileno()
    try:
        os.fstat(fd)
    except (OSError, OverflowError) as error:
        raise _contradiction(
            name, f"descriptor {fd} is not open", "pass an open descriptor or file"
        ) from error
    return fd


def _open_input_file(request: SandboxRequest) -> int:
    from backends.linux.delegation import as_caller, calling_user

    pointer = request.pointers.get("stdin", "stdin")
    path = request.stdin.content
    # O_NONBLOCK: a FIFO without a writer must not hold us up. It changes nothing for files.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = as_caller(calling_user(), lambda _: os.open(path, flags))
        os.set_blocking(fd, True)
        return fd
    except (OSError, ValueError) as error:
        message = f"standard input {path!r} cannot be opened: {error}"
        fix = "name a file that exists and that you may read"
        raise PolicyRefused(Problem("stdin_unreadable", pointer, message, fix=fix)) from error


def _contradiction(path: str, message: str, fix: str) -> ConfigError:
    return ConfigError(Problem("contradiction", path, message, fix=fix))
