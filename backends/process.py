"""The only place that starts processes.

All spawning happens on one thread of our own, where no KeyboardInterrupt can come between the start of a
child and the note of it. Children start with an empty environment and exactly the descriptors they are given.
"""

from __future__ import annotations

import os
import signal
from _queue import SimpleQueue
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable, Sequence
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl

from backends.frozen import frozen

_FIRST_FREE = 3
_INTERRUPTED_ATTEMPTS = 50


@frozen
class Spawned:
    """A started child. `pidfd` belongs to the caller; the child is reaped with `reap`."""

    pid: int
    pidfd: int


class _SpawnThread:
    """Runs callables one after another on a thread that never ends."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._started = False
        self._lock = allocate_lock()

    def call(self, job: Callable[[], Spawned]) -> Spawned:
        with self._lock:
            if not self._started:
                start_new_thread(self._loop, ())
                self._started = True
        done = allocate_lock()
        done.acquire()
        answer: list[Spawned] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                answer.append(job())
            except BaseException as error:
                failure.append(error)
            finally:
                done.release()

        try:
            self._jobs.put(work)
            done.acquire()
        except BaseException:
            # KeyboardInterrupt: the job runs all the same, and nobody would own what it starts.
            attempts = _INTERRUPTED_ATTEMPTS
            while attempts and not answer and not failure:
                attempts -= 1
                with suppress(KeyboardInterrupt):
                    done.acquire(timeout=0.1)
            for child in answer:
                # Not killed (see `kill_child_of`): it ends when our ends of its descriptors are closed.
                bury(child)
            raise
        if failure:
            raise failure[0]
        return answer[0]

    def _loop(self) -> None:
        while True:
            self._jobs.get()()


def bury(child: Spawned) -> None:
    """Have it reaped whenever it ends; its pidfd is no longer the caller's."""
    start_new_thread(_bury, (child,))


def _bury(child: Spawned) -> None:
    reap(child)
    os.close(child.pidfd)


def kill_child_of(supervisor: Spawned) -> None:
    """Kill the one child of a process that ends with it; while it has none, do nothing.

    The supervisor itself must not be killed: when that happens to bubblewrap between its clone and its
    handshake, the child waits for ever.
    """
    listing = f"/proc/{supervisor.pid}/task/{supervisor.pid}/children"
    with suppress(OSError):
        for word in _read(listing).split():
            pidfd = os.pidfd_open(int(word))
            try:
                if word in _read(listing).split():  # else the number may be somebody else's by now
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


_thread = _SpawnThread()


def _forget_thread() -> None:
    global _thread  # noqa: PLW0603 - after a fork the child has no such thread and must start its own
    _thread = _SpawnThread()


os.register_at_fork(after_in_child=_forget_thread)


def spawn(argv: Sequence[str], stdio: tuple[int, int, int], keep: Sequence[int]) -> Spawned:
    """Start a program in a session of its own, with an empty environment.

    Parameters
    ----------
    argv: absolute path of the program, then its arguments.
    stdio: the caller's descriptors that become 0, 1 and 2.
    keep: further descriptors (all ≥ 3) which the child gets under the same numbers.

    Raises `OSError` when the program cannot be started.
    """
    # A source below 3 that is not already in its place could be overwritten before it is copied.
    moved: list[int] = []
    sources: list[int] = []
    try:
        for target, source in enumerate(stdio):
            if source < _FIRST_FREE and source != target:
                moved.append(fcntl(source, F_DUPFD_CLOEXEC, _FIRST_FREE))
                sources.append(moved[-1])
            else:
                sources.append(source)
        # dup2 onto itself clears FD_CLOEXEC in posix_spawn's file actions (glibc ≥ 2.29).
        actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(sources)]
        actions += [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in keep]
        return _thread.call(lambda: _spawn_here(argv, actions))
    finally:
        for fd in moved:
            os.close(fd)


def _spawn_here(argv: Sequence[str], actions: list[tuple[int, int, int]]) -> Spawned:
    pid = os.posix_spawn(
        argv[0], list(argv), {}, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_ALL_SIGNALS
    )
    return Spawned(pid, os.pidfd_open(pid))


_ALL_SIGNALS = tuple(
    number for number in range(1, 65) if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33)
)


def reap(child: Spawned) -> int | None:
    """Exit status of a child that has ended: its code, or minus the signal that ended it.

    None when somebody else in this process has already waited for it.
    """
    try:
        info = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    except ChildProcessError:
        return None
    if info is None:
        return None
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status
