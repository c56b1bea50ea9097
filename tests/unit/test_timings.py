"""When the steps of a run happened."""

from __future__ import annotations

import time

from backends.qemu.timings import Timings


def test_steps_are_told_in_the_order_in_which_they_happened() -> None:
    """One that is noted late, with the time at which it was, has its place among the others."""
    timings = Timings()
    timings.mark("spawned")
    at = time.monotonic()
    timings.mark("started", at + 1)
    timings.mark("firstByte", at + 0.5)
    assert [name for name, _ in timings.as_pairs()] == ["spawned", "firstByte", "started"]


def test_the_first_time_counts() -> None:
    timings = Timings()
    at = time.monotonic()
    timings.mark("exit", at + 1)
    timings.mark("exit", at + 2)
    ((name, ms),) = timings.as_pairs()
    assert name == "exit" and 999 < ms < 2000
