"""When the steps of a run happened."""

from __future__ import annotations

import time

__all__ = ["Timings"]


class Timings:
    """Milliseconds from the making of this object, by step, in the order in which they happened."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._marks: dict[str, float] = {}

    def mark(self, step: str, at_s: float | None = None) -> None:
        """Note that `step` happened now, or at `at_s` on the monotonic clock; the first time counts."""
        at_s = time.monotonic() if at_s is None else at_s
        self._marks.setdefault(step, (at_s - self._since) * 1000)

    def as_pairs(self) -> tuple[tuple[str, float], ...]:
        return tuple(sorted(self._marks.items(), key=lambda mark: mark[1]))
