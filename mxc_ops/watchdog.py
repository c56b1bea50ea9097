"""One thread that enforces the deadlines of sandboxes whose owner is busy elsewhere (`mxc_ops.spawned`)."""

from __future__ import annotations

import heapq
import os
import threading
from itertools import count

from backends.base import Running
from backends.errors import MxcError
from mxc_ops.deadline import Deadline


class Watched:
    """One sandbox under watch, until `release`."""

    def __init__(self, running: Running, deadline: Deadline) -> None:
        self.running = running
        self.deadline = deadline
        self.released = False


class Watchdog:
    """A heap of deadlines, and a daemon thread that starts with the first one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Watched]] = []
        self._sequence = count()
        self._started = False

    def watch(self, running: Running, deadline: Deadline) -> Watched:
        watched = Watched(running, deadline)
        with self._changed:
            self._push(watched)
            if not self._started:
                threading.Thread(target=self._loop, name="mxc-ops-deadlines", daemon=True).start()
                self._started = True
            self._changed.notify()
        return watched

    def release(self, watched: Watched) -> None:
        """After this nothing more is done to the sandbox, not even by a deadline that is due right now."""
        with self._changed:
            watched.released = True
            # A far deadline must not keep the sandbox's descriptors open until it is due.
            self._heap = [entry for entry in self._heap if entry[2] is not watched]
            heapq.heapify(self._heap)

    def _push(self, watched: Watched) -> None:
        due = watched.deadline.due
        if due is not None:
            heapq.heappush(self._heap, (due, next(self._sequence), watched))

    def _loop(self) -> None:
        with self._changed:
            while True:
                remaining_s = self._heap[0][2].deadline.remaining_s() if self._heap else None
                if remaining_s is None or remaining_s > 0:
                    self._changed.wait(remaining_s)
                else:
                    self._enforce(heapq.heappop(self._heap)[2])

    def _enforce(self, watched: Watched) -> None:
        if watched.released:
            return
        try:
            watched.deadline.enforce(watched.running)
        except MxcError:
            return  # it does not die; whoever waits for it finds out
        self._push(watched)


_watchdog = Watchdog()


def watchdog() -> Watchdog:
    """This process's own."""
    return _watchdog


def _forget_thread() -> None:
    global _watchdog  # noqa: PLW0603 - after a fork the child has no such thread, and no such sandboxes
    _watchdog = Watchdog()


os.register_at_fork(after_in_child=_forget_thread)
