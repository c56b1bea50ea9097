"""Hyperlight from Python: starts, tool calls, snapshots: ``python -m tests.bench.bench_hyperlight``.

Needs QEMU, and builds the image ``python`` when it is not there yet. Promises are for a quiet machine with
two processors under TCG; the ratios, to figures of the same run, are for any.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from statistics import median

from backends.agent.identity import new_identity
from backends.qemu.clone import restore
from backends.qemu.open_templates import shared_template
from backends.qemu.timings import Timings
from mxc_ops import Hyperlight, HyperlightSnapshot, Policy, WarmPool, run
from mxc_ops.one_shot import prepare
from tests.images import image

ROUNDS = int(os.environ.get("MXC_BENCH_HYPERLIGHT_ROUNDS", "10"))
CALLS = 300
PLAIN = Policy(containment="hyperlight")
TIMED_CALLS = f"""
import time
times = []
for _ in range({CALLS}):
    begun = time.perf_counter()
    tools.add(1, 2)
    times.append((time.perf_counter() - begun) * 1000)
times
"""


def main() -> None:
    image("python")
    _first_results()
    _tool_calls()
    _snapshots()


def _line(title: str, times: list[float], note: str = "") -> float:
    middle = median(times)
    print(f"  {title:<52} min {min(times):7.1f}  median {middle:7.1f} ms  {note}", flush=True)
    return middle


def _times(once: Callable[[], object], pause_s: float = 0.0) -> list[float]:
    times: list[float] = []
    for _ in range(ROUNDS):
        time.sleep(pause_s)  # for the pool
        begun = time.perf_counter()
        ended = once()
        times.append((time.perf_counter() - begun) * 1000)
        if isinstance(ended, Hyperlight):
            ended.close()
    return times


def _print_1() -> Hyperlight:
    made = Hyperlight()
    if made.run("print(1)").stdout != "1\n":
        raise RuntimeError("it did not print")
    return made


def _first_results() -> None:
    run(PLAIN, "print(1)")  # the template is in the store
    cold = _line("one-shot print(1), a clone", _times(lambda: run(PLAIN, "print(1)")))
    taken = _line("Hyperlight: print(1), a clone", _times(_print_1))
    print(f"    ratio {taken / cold:.2f}")
    with WarmPool(PLAIN, size=1):
        cold = _line("one-shot print(1), parked", _times(lambda: run(PLAIN, "print(1)"), 2.0))
        taken = _line("Hyperlight: print(1), parked", _times(_print_1, 2.0))
        print(f"    ratio {taken / cold:.2f}")
    with Hyperlight() as made:
        _line("Hyperlight: one more print(1)", _times(lambda: made.run("print(1)")))


def _tool_calls() -> None:
    pings = asyncio.run(_pings())
    ping = _line("ping of a guest's agent", pings)
    with Hyperlight() as made:
        made.register_tool("add", int.__add__)
        made.run(TIMED_CALLS)
        value: list[float] = made.run(TIMED_CALLS).value
        call = _line("tool call guest → host → guest", value, "(promised 3)")
    print(f"    ratio {call / ping:.2f}, promised {3 / 0.5:.0f}")


async def _pings() -> list[float]:
    with prepare(PLAIN.request("pass")) as prepared:
        plan = prepared.plan
    template = await shared_template(plan.template, plan.confinement)
    clone = await restore(plan.template, template, plan.confinement, Timings())
    try:
        await clone.guest.agent.identify(new_identity())
        return [await clone.guest.agent.ping() * 1000 for _ in range(CALLS)]
    finally:
        await clone.end()


def _snapshots() -> None:
    with Hyperlight() as made:
        made.run("x = 1")
        for title in ("snapshot of a clone", "snapshot of a restored machine"):
            begun = time.perf_counter()
            with made.snapshot() as taken:
                _line(title, [(time.perf_counter() - begun) * 1000])
                _line("  restore", _times(lambda taken=taken: made.restore(taken)))
                _line("  restore and the first run", _times(lambda taken=taken: _restored(made, taken)))


def _restored(made: Hyperlight, taken: HyperlightSnapshot) -> None:
    made.restore(taken)
    made.run("x")


if __name__ == "__main__":
    main()
