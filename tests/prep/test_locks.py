"""One preparation at a time on a host, and what is left of one that is killed: on this host, for real."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mxc_ops.prep.receipts import decode
from mxc_ops.prep.shells.sh import SHELL
from tests.prep.private_host import PrivateHost, Reported, missing

pytestmark = [
    pytest.mark.backend("bubblewrap"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
PACKAGE = "bubblewrap.package.bwrap"
IDS = "bubblewrap.ids.workloads"
EVERYTHING = ("--item", "bubblewrap.*")
NOTHING_COMPILED = ("--item", "bubblewrap.package.bwrap", "--item", "bubblewrap.ids.*")
LONGEST_S = 3.0
# apt waits for whoever has this lock.
_HOLD_APT = """
import fcntl, sys
with open("/var/lib/dpkg/lock-frontend", "w") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    with PrivateHost() as made:
        yield made


@contextmanager
def apt_held(host: PrivateHost) -> Generator[Callable[[], None]]:
    """Every installation waits until what is given is called."""
    holder = subprocess.Popen(
        host.inside([sys.executable, "-c", _HOLD_APT]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    try:
        yield lambda: holder.communicate(timeout=20) and None
    finally:
        if holder.poll() is None:
            holder.communicate(timeout=20)


def await_true(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


def ended(child: subprocess.Popen[str]) -> Reported:
    out, err = child.communicate(timeout=120)
    return Reported(subprocess.CompletedProcess(child.args, child.returncode, out, err))


def state_of(host: PrivateHost, item: str) -> str:
    """Of the item's receipt; "" when there is none."""
    try:
        return decode(host.seen(f"/var/lib/mxc-ops/receipts/{item}.json").read_text()).state
    except FileNotFoundError:
        return ""


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_a_second_one_is_told_who_holds_the_host_and_a_third_waits(host: PrivateHost) -> None:
    with apt_held(host) as let_go:
        first = host.start("host", "--item", PACKAGE, "--yes")
        await_true(lambda: state_of(host, PACKAGE) == "pending", "the first does not begin")

        second = host.prep("host", "--item", IDS, "--yes")
        assert (second.exit_code, second.host["state"]) == (8, "held by another preparation"), second
        assert second.host["problem"].endswith(f", process {first.pid} for @local")
        assert not host.seen("/etc/mxc-ops").exists()

        third = host.start("host", "--item", IDS, "--wait", "100", "--yes")
        await_true(lambda: "timeout 100 flock" in _commands_below(third.pid), "the third does not wait")
        let_go()
        assert ended(first).states == {PACKAGE: "changed"}
    assert ended(third).states == {IDS: "changed"}
    assert host.sh(SHELL.holder()) == ""
    assert set(host.receipts()) == {PACKAGE, IDS}


def _commands_below(pid: int) -> str:
    """What all processes below this one are called by, one a line."""
    lines: list[str] = []
    for child in children(pid):
        with suppress(OSError):
            lines.append(Path(f"/proc/{child}/cmdline").read_text().replace("\0", " "))
        lines.append(_commands_below(child))
    return "\n".join(lines)


def test_two_at_the_very_same_moment_do_it_once(host: PrivateHost) -> None:
    both = [host.start("host", *EVERYTHING, "--wait", "100", "--yes") for _ in range(2)]
    reports = [ended(child) for child in both]
    assert [report.exit_code for report in reports] == [0, 0], reports
    changed = [name for report in reports for name, state in report.states.items() if state == "changed"]
    assert sorted(changed) == sorted(set(changed))
    assert {receipt["state"] for receipt in host.receipts().values()} == {"complete"}
    assert host.receipts()[PACKAGE]["made"]["added"] == ["bubblewrap"]


def test_what_a_killed_one_has_begun_goes_on_and_is_waited_for(host: PrivateHost) -> None:
    with apt_held(host) as let_go:
        first = host.start("host", "--item", PACKAGE, "--yes")
        await_true(lambda: state_of(host, PACKAGE) == "pending", "it does not begin")
        (worker,) = children(first.pid)
        os.kill(worker, signal.SIGKILL)
        out, _ = first.communicate(timeout=60)
        assert first.returncode == 1
        assert "the worker broke" in out

        refused = host.prep("host", "--item", PACKAGE, "--yes")
        assert (refused.exit_code, refused.host["state"]) == (8, "held by another preparation"), refused
        assert "interrupted" in refused.host["problem"]

        incomplete = host.prep("undo", "--yes")
        assert (incomplete.exit_code, incomplete.states) == (1, {PACKAGE: "refused"}), incomplete
        assert f"--item {PACKAGE}" in incomplete.items[PACKAGE]["fix"]

        waiting = host.start("host", "--item", PACKAGE, "--wait", "100", "--yes")
        let_go()
    assert ended(waiting).exit_code == 0
    assert host.receipts()[PACKAGE]["made"]["added"] == ["bubblewrap"]
    undone = host.prep("undo", "--yes")
    assert (undone.exit_code, undone.states) == (0, {PACKAGE: "undone"}), undone
    assert "\nbubblewrap " not in host.packages()


@pytest.mark.parametrize("rounds", [5, pytest.param(40, marks=pytest.mark.soak)])
def test_a_kill_at_any_moment_leaves_what_a_rerun_completes_and_undo_takes_back(
    host: PrivateHost, rounds: int
) -> None:
    files, packages = host.differences(), host.packages()
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    for number in range(rounds):
        victims = ("controller", "worker", "both")[number % 3]
        items = EVERYTHING if number % 4 == 0 else NOTHING_COMPILED
        moment = chance.uniform(0.2, LONGEST_S if items is EVERYTHING else LONGEST_S / 2)
        told = f"seed {seed}, round {number}: {victims} killed after {moment:.3f} s"
        undoing = number % 4 == 3 and host.prep("host", *items, "--yes").exit_code == 0
        _kill(host.start(*(("undo",) if undoing else ("host", *items)), "--yes"), victims, moment)
        for path in host.seen("/var/lib/mxc-ops/receipts").glob("*.json"):
            assert decode(path.read_text()).state in ("pending", "complete"), told

        again = host.prep("host", *items, "--wait", "100", "--yes")
        assert again.exit_code == 0, f"{told}: {again}"
        assert set(again.states.values()) <= {"changed", "as wanted"}, f"{told}: {again}"
        assert {receipt["state"] for receipt in host.receipts().values()} == {"complete"}, told
        assert host.sh(SHELL.holder()) == "", told

        undone = host.prep("undo", "--yes")
        assert undone.exit_code == 0, f"{told}: {undone}"
        assert host.differences() == files, told
        assert host.packages() == packages, told


def _kill(controller: subprocess.Popen[str], victims: str, moment: float) -> None:
    time.sleep(moment)
    targets = {"controller": [controller.pid], "worker": children(controller.pid)}
    targets["both"] = [*targets["controller"], *targets["worker"]]
    for pid in targets[victims]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    controller.communicate(timeout=120)
