"""While a sandbox uses up what it may, the host still answers (issue, Limits)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.security.callers import Caller, one_shot
from tests.security.host import wait_until, with_word

pytestmark = one_shot

LIMITS = {"pids": 64, "memory_mib": 200, "file_size_mib": 20, "tmp_mib": 20, "cpu_seconds": 30}
BOMB = "boom() { boom | boom & }; while :; do boom; done"
HOGS = {
    "a fork bomb": f"bash -c '{BOMB}' 2> /dev/null",
    "a memory hog": "while :; do {probe} memory=4000 memory=4000; done > /dev/null",
    "a disk filler": (
        "while :; do {probe} fill=/tmp/a,999 fill=/dev/shm/a,999 fill={place}/a,999 fill={place}/b,999; done"
        " > /dev/null"
    ),
    "an output flood": "yes 0123456789012345678901234567890123456789",
    "all processors": "for i in 1 2 3 4 5 6 7 8; do {probe} spin=60000 & done; wait",
}


@pytest.mark.parametrize("kind", HOGS)
def test_a_command_on_the_host_answers_within_a_second(
    caller: Caller, place: Path, probe: Path, kind: str, soak: bool
) -> None:
    """The one assertion about time among the tests: it is the issue's own sentence."""
    command = HOGS[kind].replace("{probe}", str(probe)).replace("{place}", str(place))
    mark = f"hog-{kind.replace(' ', '-')}"
    hog = caller.begin(
        ["sh", "-c", command, mark],
        read_only=[probe.parent],
        read_write=[place],
        limits=LIMITS,
        timeout_s=10.0 if soak else 2.0,
    )
    wait_until(lambda: bool(with_word(mark)), "the hog did not start")
    slowest = 0.0
    while with_word(mark):
        start = time.monotonic()
        assert caller.program(["true"]).exit_code == 0
        slowest = max(slowest, time.monotonic() - start)
        time.sleep(0.05)
    told = hog.told()
    assert told.error == "" and told.outcome in ("timed out", "exited", "signalled"), told
    assert slowest < 1.0
    for file in place.iterdir():
        assert file.stat().st_size <= LIMITS["file_size_mib"] * 1024 * 1024


def test_the_flood_of_output_is_kept_within_a_stated_cap(caller: Caller) -> None:
    source = """
import resource
from mxc_ops import Policy, run

def main():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    policy = Policy(containment=CONTAINMENT, timeout_s=30)
    result = run(policy, "head -c 300M /dev/zero", max_output_bytes=1_000_000)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return [len(result.stdout), result.stdout_truncated, result.stdout_dropped_bytes, grown_kib]
"""
    kept, truncated, dropped, grown_kib = caller.call(source)
    assert (kept, truncated, kept + dropped) == (1_000_000, True, 300 * 1024 * 1024)
    assert grown_kib < 64 * 1024
