"""Threads that functions of the host run on, which nobody can stop: few, and never waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

__all__ = ["Workers"]

_IDLE_S = 5.0


class Workers:
    """At most `most` threads of this process, made as they are needed; they end when there is nothing to do.

    They are daemons: a function that never returns does not keep the process from ending.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0
        self._closed = False

    def start(self, work: Callable[[], object]) -> bool:
        """Have it done by a thread, which it must not raise in; False when all of them are at work."""
        with self._lock:
            if self._closed:
                return False
            if self._idle:
                self._idle -= 1  # one that waits is taken: it will find this work
            elif self._threads < self._most:
                threading.Thread(target=self._serve, name="mxc-ops tool", daemon=True).start()
                self._threads += 1
            else:
                return False
            self._work.put(work)
            return True

    def close(self) -> None:
        """Those that wait end now, the others with their work. Idempotent."""
        with self._lock:
            self._closed = True
            for _ in range(self._idle):
                self._work.put(None)
            self._idle = 0

    def _serve(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=_IDLE_S)
            except Empty:
                with self._lock:
                    if self._idle:  # else somebody has just taken this one for work
                        self._idle -= 1
                        self._threads -= 1
                        return
                continue
            if work is None:
                return
            work()
            del work
            with self._lock:
                if self._closed:
                    return
                self._idle += 1
