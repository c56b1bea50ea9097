"""The wall-clock deadline of one run: signal, grace, kill. A state machine without a timer of its own."""

from __future__ import annotations

import signal
import time

from backends.base import Running, Timeout
from backends.errors import LaunchFailed, Problem

KILL_PATIENCE_S = 10.0
"""How long the kernel may take to end what was killed before we give up waiting."""


class Deadline:
    """Starts counting when made. `timed_out` tells afterwards whether the run was cut short.

    Parameters
    ----------
    timeout: from the request; ``after_ms == 0`` means no deadline.
    """

    __slots__ = ("_due", "_killed", "_timeout", "timed_out")

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._due = time.monotonic() + timeout.after_ms / 1000 if timeout.after_ms else None
        self._killed = False
        self.timed_out = False

    @property
    def due(self) -> float | None:
        """When `enforce` has something to do next, on the monotonic clock."""
        return self._due

    def remaining_s(self) -> float | None:
        """Seconds until `enforce` has something to do; None when it never will."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def enforce(self, running: Running) -> None:
        """Do what is due now: the signal first, the kill after the grace.

        Raises `LaunchFailed` when even the kill did not end the sandbox within `KILL_PATIENCE_S`.
        """
        if self._due is None or time.monotonic() < self._due:
            return
        if not self._killed and running.wrapping_up:
            self._due = None
            return
        if self._killed:
            raise unkillable()
        self.timed_out = True
        if self._due_is_final():
            running.kill()
            self._killed = True
            self._due = time.monotonic() + KILL_PATIENCE_S
        else:
            running.expire(signal.Signals[f"SIG{self._timeout.signal}"])
            self._due = time.monotonic() + self._timeout.grace_ms / 1000
            self._timeout = Timeout(self._timeout.after_ms, 0, self._timeout.signal)

    def _due_is_final(self) -> bool:
        return self._timeout.grace_ms == 0


def unkillable() -> LaunchFailed:
    problem = Problem(
        "not_ending",
        "",
        f"the sandbox was killed, but its processes did not end within {KILL_PATIENCE_S:g} s",
        fix="look for processes in uninterruptible sleep: ps -eo pid,stat,wchan,comm | grep ' D'",
    )
    return LaunchFailed(problem, retryable=True)
