"""Timing several ways of doing one thing in turns, so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

Durations = dict[str, list[float]]


def in_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> Durations:
    """Milliseconds of every call, by candidate; one call of each goes before and is not counted."""
    durations: Durations = {name: [] for name in candidates}
    for candidate in candidates.values():
        candidate()
    for _ in range(rounds):
        for name, candidate in candidates.items():
            durations[name].append(once_ms(candidate))
    return durations


def once_ms(candidate: Callable[[], object]) -> float:
    begun = time.perf_counter()
    candidate()
    return (time.perf_counter() - begun) * 1000


def table(title: str, durations: Durations, *, against: str = "") -> None:
    """Print minimum and median, and the ratios to the candidate named `against`."""
    print(f"\n{title}")
    base = durations.get(against)
    width = max(map(len, durations))
    for name, times in durations.items():
        line = f"  {name:<{width}}  min {min(times):8.2f} ms  median {median(times):8.2f} ms"
        if base and name != against:
            line += f"  x {min(times) / min(base):.2f} (min)  x {median(times) / median(base):.2f} (median)"
        print(line)
