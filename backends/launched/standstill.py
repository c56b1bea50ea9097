"""Everything in a sandbox but its process 1 and its agent stands still for a while (effectful, blocking).

By SIGSTOP, for a control group that freezes is not to be had everywhere. Processes that had been stopped
before stay so afterwards; a parent that asks for it is told that its children were stopped, and go on.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType

from backends.errors import LaunchFailed, Problem

__all__ = ["Standstill", "children"]

_STILL = frozenset("TtZX")
_WAITS = "D"
_TOGETHER = 64
_DEADLINE_S = 5.0
_MOMENT_S = 0.001
_LONGEST_PAUSE_S = 0.05


class Standstill:
    """``with Standstill(init, agent):`` nothing but those two moves, whose pids on the host they are.

    The agent must start nothing meanwhile.
    """

    def __init__(self, init: int, agent: int) -> None:
        self._init = init
        self._agent = agent
        self._namespace = 0
        self._stopped: set[int] = set()

    def enter(self) -> Standstill:
        """Raises `LaunchFailed` (retryable) when something does not come to rest; nothing is stopped then."""
        try:
            self._namespace = _namespace(self._init)
            self._come_to_rest()
        except BaseException:
            self._go_on(self._stopped)
            raise
        return self

    def again(self) -> None:
        """Stop whoever moves once more: a program may have set itself an alarm that wakes it."""
        with suppress(LaunchFailed, OSError):  # what cannot be done now may be done next time
            self._come_to_rest()

    def leave(self) -> None:
        self._go_on(self._stopped)

    def _come_to_rest(self) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        pause_s = _MOMENT_S
        before = None
        while (still := self._still()) is None or still != before:
            before = still
            if time.monotonic() > deadline:
                message = "the sandbox's processes do not come to rest"
                raise LaunchFailed(Problem("never_still", "", message), retryable=True)
            time.sleep(pause_s)
            pause_s = min(1.25 * pause_s, _LONGEST_PAUSE_S)

    def __enter__(self) -> Standstill:
        return self.enter()

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.leave()

    def _still(self) -> frozenset[int] | None:
        """Stop whoever moves; who is there, if nobody did. A process that is stopped starts no other, but
        what still moves may wake it, or start one where we have looked already: so all are looked at again.
        """
        seen = frozenset(pid for pid in _below(self._init) if pid != self._agent)
        still = True
        moving: set[int] = set()
        for pid in seen:
            with suppress(ProcessLookupError):
                states = _states(pid)
                if states <= _STILL:
                    continue
                still = False
                if pid in self._stopped and _WAITS in states:
                    # Perhaps for a vfork of its own, whose other half must come to its exec first.
                    self._go_on(self._stopped.intersection(children(pid)))
                else:
                    moving.add(pid)
        if moving:
            self._stop([*moving, *(seen & self._stopped - moving)])
        return seen if still else None

    def _stop(self, pids: Sequence[int]) -> None:
        """Together, and whom we had stopped as well: who moves a little longer may wake the others."""
        for first in range(0, len(pids), _TOGETHER):
            held: dict[int, int] = {}
            try:
                for pid in pids[first : first + _TOGETHER]:
                    with suppress(ProcessLookupError):
                        held[pid] = _held(pid)
                ours = {pid for pid in held if self._is_inside(pid)}
                for pid in (*ours, *ours):
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(held[pid], signal.SIGSTOP)
                self._stopped |= ours
            finally:
                for descriptor in held.values():
                    os.close(descriptor)

    def _is_inside(self, pid: int) -> bool:
        with suppress(ProcessLookupError):
            return _namespace(pid) == self._namespace
        return False

    def _go_on(self, stopped: Iterable[int]) -> None:
        """Raises `OSError` when somebody could not be woken; may be called again then."""
        failed: OSError | None = None
        for pid in frozenset(stopped):
            try:
                with suppress(ProcessLookupError):
                    self._wake(pid)
                self._stopped.discard(pid)
            except OSError as error:
                failed = error
        if failed is not None:
            raise failed

    def _wake(self, pid: int) -> None:
        """Unless the number is another process's by now."""
        held = _held(pid)
        try:
            if self._is_inside(pid):
                signal.pidfd_send_signal(held, signal.SIGCONT)
        finally:
            os.close(held)


def _held(pid: int) -> int:
    """Raises `ProcessLookupError`, also for a number that is a thread's by now."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINVAL):
            raise ProcessLookupError(pid) from error
        raise


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


def _states(pid: int) -> set[str]:
    """Of its threads: the first may have ended, as if all had. Raises `ProcessLookupError`."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    states: set[str] = set()
    for thread in threads:
        with suppress(FileNotFoundError, ProcessLookupError):
            states.add(_read(f"/proc/{pid}/task/{thread}/stat").rpartition(")")[2].split()[0])
    return states


def _namespace(pid: int) -> int:
    """Raises `ProcessLookupError`: one that ends just then may not be looked at, says the kernel."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except (FileNotFoundError, PermissionError) as error:
        raise ProcessLookupError(pid) from error


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
