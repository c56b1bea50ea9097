"""A gate as it runs: started, asked step by step, ended by closing it (effectful)."""

from __future__ import annotations

import os
import struct
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    SCM_RIGHTS,
    SHUT_RDWR,
    SO_SNDTIMEO,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)
from collections.abc import Iterable, Sequence
from contextlib import suppress
from select import POLLIN, poll
from signal import SIGKILL, pidfd_send_signal

from backends import process
from backends.errors import LaunchFailed, Problem
from backends.inside.codec import spec_memfd
from backends.network.steps import (
    ANSWER_BYTES,
    Ask,
    Await,
    Enter,
    Helper,
    Run,
    Step,
    decode_answer,
    encode_step,
)

__all__ = ["Asked", "Gate"]

_END_S = 5.0
_ANSWER_S = 60.0  # longer than any program that it runs may take
_INT = struct.Struct("i")
_TIME = struct.Struct("ll")  # timeval: seconds, microseconds
_MOST_DESCRIPTORS = 2
_MOST_AHEAD = 64
_MOST_WORDS = 4000

Asked = tuple[Step, tuple[int, ...]]
"""A step, and the descriptors that come with it."""


class Gate:
    """The process beside a sandbox that owns its network namespace.

    Parameters
    ----------
    launcher: absolute path of our program.

    `users` and `network` are the namespaces, once they were entered. Closing the gate ends it, its helper and
    its programs; the namespaces live on for as long as somebody else is in them.
    """

    def __init__(self, launcher: str) -> None:
        self.users: int | None = None
        self.network = -1
        self._owner = os.getpid()
        self._control, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)
        self._control.setsockopt(SOL_SOCKET, SO_SNDTIMEO, _TIME.pack(int(_ANSWER_S), 0))
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            argv = (launcher, "gate", str(theirs.fileno()))
            self._child = process.spawn(argv, (null, null, null), (theirs.fileno(),))
        except OSError:
            self._control.close()
            raise
        finally:
            theirs.close()
            os.close(null)

    @property
    def pidfd(self) -> int:
        return self._child.pidfd

    def do(self, steps: Sequence[Asked]) -> list[int]:
        """Have it take these steps, in order; answers the descriptors that they made, which are the caller's.

        Raises `LaunchFailed` for the first that fails; what those after it made is closed.
        """
        made: list[int] = []
        try:
            for start in range(0, len(steps), _MOST_AHEAD):
                self._do(steps[start : start + _MOST_AHEAD], made)
        except BaseException:
            _close(made)
            raise
        return made

    def _do(self, steps: Sequence[Asked], made: list[int]) -> None:
        """So few that the gate has room for all answers, and does not wait for them to be taken."""
        for step, descriptors in steps:
            self._send(encode_step(step), descriptors)
        failure: LaunchFailed | None = None
        for step, descriptors in steps:
            try:
                made += self._take(step, descriptors)
            except LaunchFailed as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def enter(self, step: Enter, held: int | None) -> None:
        """Its first step.

        Parameters
        ----------
        held: a descriptor that it keeps open for as long as it lives.

        Raises `LaunchFailed`.
        """
        owner = os.pidfd_open(os.getpid())
        try:
            found = self.do([(step, (owner,) if held is None else (owner, held))])
        finally:
            os.close(owner)
        self.network = found[0]
        self.users = found[1] if len(found) > 1 else None

    def run(self, argv: tuple[str, ...], text: str, deadline_ms: int) -> None:
        """Run a program of the host's in the namespace, with `text` as its input.

        Raises `LaunchFailed`, with what it said, unless it exits with 0.
        """
        given = spec_memfd(text.encode())
        output = os.memfd_create("output", os.MFD_CLOEXEC)
        try:
            self.do([(Run(argv, deadline_ms), (given, output))])
        finally:
            _close((given, output))

    def ask(self, request: bytes) -> bytes:
        """What netfilter answers to a request of netlink in the namespace. Raises `LaunchFailed`."""
        answers = os.memfd_create("answers", os.MFD_CLOEXEC)
        try:
            self.do([(Ask(request), (answers,))])
            return _whole(answers)
        finally:
            os.close(answers)

    def close(self) -> None:
        """Idempotent."""
        if self._control.fileno() < 0:
            return
        if os.getpid() == self._owner:
            with suppress(OSError):  # a fork of ours may hold a copy of it
                self._control.shutdown(SHUT_RDWR)
        self._control.close()
        _close(one for one in (self.network, self.users) if one is not None and one >= 0)
        self.network, self.users = -1, None
        if os.getpid() != self._owner:
            return
        waiting = poll()
        waiting.register(self._child.pidfd, POLLIN)
        if not waiting.poll(_END_S * 1000):
            pidfd_send_signal(self._child.pidfd, SIGKILL)  # and with it all of its pid namespace
        process.reap(self._child)
        os.close(self._child.pidfd)

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):  # it may not have been started
            self.close()

    def _send(self, message: bytes, descriptors: tuple[int, ...]) -> None:
        rights = b"".join(_INT.pack(one) for one in descriptors)
        ancillary = [(SOL_SOCKET, SCM_RIGHTS, rights)] if rights else []
        try:
            self._control.sendmsg([message], ancillary)
        except BlockingIOError as error:
            raise _failed("the gate takes no steps") from error
        except OSError as error:
            raise _failed("its process has ended", f"{error}") from error

    def _take(self, step: Step, descriptors: tuple[int, ...]) -> list[int]:
        room = CMSG_SPACE(_MOST_DESCRIPTORS * _INT.size)
        waiting = poll()
        waiting.register(self._control.fileno(), POLLIN)
        if not waiting.poll(_ANSWER_S * 1000):
            self._control.shutdown(SHUT_RDWR)  # nor is anything of the steps after this one waited for
            raise _failed(_title(step), "the gate does not answer")
        data, ancillary, flags, _ = self._control.recvmsg(ANSWER_BYTES, room, MSG_CMSG_CLOEXEC)
        found = [number for _, _, rights in ancillary for (number,) in _INT.iter_unpack(rights)]
        if not data:
            raise _failed("its process has ended", _said(step, descriptors))
        answer = decode_answer(data)
        if flags & MSG_CTRUNC:
            _close(found)
            raise _failed(_title(step), "too many open files")
        if answer.error:
            raise _failed(_title(step), os.strerror(answer.error), _said(step, descriptors))
        if isinstance(step, Run) and answer.value:
            raise _failed(_title(step), f"it exited with {answer.value}", _said(step, descriptors))
        return found


def _title(step: Step) -> str:
    if isinstance(step, Run | Helper):
        return step.argv[0]
    return "what carries its packets" if isinstance(step, Await) else f"step {type(step).__name__.lower()}"


def _said(step: Step, descriptors: tuple[int, ...]) -> str:
    """What a program wrote before it failed."""
    if not isinstance(step, Run | Await | Helper) or not descriptors:
        return ""
    return _whole(descriptors[-1]).decode("utf-8", "replace")[-_MOST_WORDS:].strip()


def _whole(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _failed(what: str, *why: str) -> LaunchFailed:
    said = ": ".join(part for part in (what, *why) if part)
    return LaunchFailed(
        Problem(
            "network_not_made",
            "/network",
            f"the sandbox's network could not be made, or changed, as the policy wants it: {said}",
            fix="mxc-ops doctor --feature network tells what this host lacks",
        )
    )


def _close(descriptors: Iterable[int]) -> None:
    for one in descriptors:
        os.close(one)
