"""Everything in a sandbox stands still for a moment, all but its process 1 (effectful, blocking).

By SIGSTOP, for a control group that freezes is not to be had everywhere. Processes that had been stopped
before stay so afterwards; a parent that asks for it is told that its children were stopped, and go on.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType

from backends.errors import LaunchFailed, Problem

__all__ = ["Standstill", "children"]

_STILL = "TtZX"
_DEADLINE_S = 5.0
_MOMENT_S = 0.001


class Standstill:
    """``with Standstill(pid):`` nothing but process 1 of that sandbox, whose pid on the host it is, moves.

    Entering raises `LaunchFailed` (retryable) when something does not come to rest; nothing is stopped then.
    """

    def __init__(self, init: int) -> None:
        self._init = init
        self._namespace = 0
        self._stopped: set[int] = set()

    def __enter__(self) -> Standstill:
        try:
            self._namespace = _namespace(self._init)
            deadline = time.monotonic() + _DEADLINE_S
            while not self._is_still():
                if time.monotonic() > deadline:
                    message = "the sandbox's processes do not come to rest"
                    raise LaunchFailed(Problem("never_still", "", message), retryable=True)
                time.sleep(_MOMENT_S)
        except BaseException:
            self._go_on()
            raise
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._go_on()

    def _is_still(self) -> bool:
        """Stop whoever is not; whether everybody was. A process that is stopped starts no other, but what
        still moves may wake it: so all are looked at again."""
        still = True
        for pid in _below(self._init):
            with suppress(ProcessLookupError):
                if not _is_at_rest(pid):
                    still = False
                    if self._signal(pid, signal.SIGSTOP):
                        self._stopped.add(pid)
        return still

    def _go_on(self) -> None:
        for pid in self._stopped:
            with suppress(ProcessLookupError):
                self._signal(pid, signal.SIGCONT)

    def _signal(self, pid: int, number: int) -> bool:
        """False when the number is another process's by now."""
        held = os.pidfd_open(pid)
        try:
            if _namespace(pid) != self._namespace:
                return False
            signal.pidfd_send_signal(held, number)
            return True
        finally:
            os.close(held)


def children(pid: int) -> Iterator[int]:
    """The children of each of its threads, the oldest first."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError):
                yield from map(int, _read(f"/proc/{pid}/task/{thread}/children").split())


def _below(pid: int) -> Iterator[int]:
    waiting = list(children(pid))
    while waiting:
        one = waiting.pop()
        yield one
        waiting += children(one)


def _is_at_rest(pid: int) -> bool:
    """By every thread: the first may have ended, as if all had. Raises `ProcessLookupError`."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    for thread in threads:
        with suppress(FileNotFoundError, ProcessLookupError):
            if _read(f"/proc/{pid}/task/{thread}/stat").rpartition(")")[2].split()[0] not in _STILL:
                return False
    return True


def _namespace(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
