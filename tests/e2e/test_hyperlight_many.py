"""Many runs of Hyperlight's, two at a time: none fails, none finds another, and the host keeps its memory."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mxc_ops import Driver, HyperlightSettings, Policy, WarmPool, run
from tests.images import image

pytestmark = pytest.mark.backend("hyperlight")

RUNS = 200 if os.environ.get("MXC_SOAK") == "1" else 30
SETTLED_AFTER = 20
POOL = 2
MOST_GROWTH = 1.05
POLICY = Policy(containment="hyperlight", hyperlight=HyperlightSettings(driver=Driver.QEMU))
SOURCE = """
import os, json
seen = sorted(os.listdir('/tmp')), getattr(json, 'left', None), len(os.listdir('/proc/self/fd'))
json.left = open('/tmp/left', 'w').write('x')
print(*seen, {number})
"""


def held(pool: WarmPool | None) -> tuple[int, int]:
    """(bytes of this process that no other shares, its open descriptors), with the pool full again."""
    if pool is not None:
        WarmPool(POLICY, POOL)
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text()
    private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
    return private << 10, len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def one(number: int) -> str:
    result = run(POLICY, SOURCE.format(number=number))
    assert result.ok, result.stderr
    return result.stdout.decode().replace(f" {number}\n", "")


@pytest.mark.parametrize("kept_ready", [False, True])
def test_many_runs_leave_nothing_in_each_other_or_on_the_host(kept_ready: bool) -> None:
    image("python")
    pool = WarmPool(POLICY, POOL) if kept_ready else None
    try:
        with ThreadPoolExecutor(2) as two:
            first = list(two.map(one, range(SETTLED_AFTER)))
            memory, descriptors = held(pool)
            rest = list(two.map(one, range(SETTLED_AFTER, RUNS)))
        memory_now, descriptors_now = held(pool)
    finally:
        if pool is not None:
            pool.close()
    assert len({*first, *rest}) == 1, "what a run found was not the same each time"
    assert first[0].startswith("[] None ")
    assert memory_now <= memory * MOST_GROWTH
    assert descriptors_now <= descriptors
