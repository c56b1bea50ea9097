"""What holds on real hosts when a controller is killed, two meet, or a command hangs."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator

import pytest

from mxc_ops.prep.receipts import COMPLETE, DIRECTORY, FAILED, Receipt, decode
from mxc_ops.prep.shells import Change
from mxc_ops.prep.shells.sh import SHELL
from tests.fleet.controller import Controller
from tests.fleet.fleet import Fleet, Machine, missing
from tests.fleet.image import package_source
from tests.fleet.inventory import Group, write_inventory

pytestmark = [pytest.mark.backend("bubblewrap"), pytest.mark.skipif(bool(missing()), reason=missing())]

HOSTS = ["web-1", "web-2"]
CHANGES = 4 * len(HOSTS)
LONGEST_CHANGE_S = 0.5
KILLS, SOAK_KILLS = 3, 15
STANDS = r"""
dpkg-query -W -f '${db:Status-Status} ${binary:Package}\n'
find /etc /usr /var/lib -xdev \
    \( -path /var/lib/apt -o -path /var/lib/dpkg -o -name ld.so.cache -o -name __pycache__ \) -prune \
    -o -printf '%M %p\n' | sort
"""
# Whoever installs packages waits for this lock.
HOLD_PACKAGES = """
cat > /run/hold.py <<'END'
import fcntl, pathlib, signal
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
pathlib.Path("/run/held").touch()
signal.pause()
END
python3 /run/hold.py </dev/null >/dev/null 2>&1 &
echo $! > /run/hold.pid
until test -e /run/held; do sleep 0.01; done
"""
RELEASE_PACKAGES = "kill $(cat /run/hold.pid)"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet([Machine(name) for name in HOSTS], package_source(["bubblewrap"])) as running:
        yield running


@pytest.fixture(scope="module")
def controller(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    folder = tmp_path_factory.mktemp("controller")
    group = Group(HOSTS, {"mxc_backends": ["bubblewrap"], "mxc_launcher": "push"})
    return Controller(fleet, write_inventory(folder / "fleet.py", fleet, {"web": group}), folder)


@pytest.fixture
def fresh(fleet: Fleet) -> Fleet:
    """The fleet as it was at first."""
    fleet.renew(*HOSTS)
    return fleet


def receipts(fleet: Fleet, host: str) -> list[Receipt]:
    """Every receipt of a host; each must be a whole one."""
    told = fleet.inside(host, f"for path in {DIRECTORY}/*.json; do test ! -e $path || cat $path; done")
    return [decode(line) for line in told.splitlines()]


@pytest.mark.parametrize(
    "seed", [*range(KILLS), *(pytest.param(n, marks=pytest.mark.soak) for n in range(KILLS, SOAK_KILLS))]
)
def test_a_killed_controller_leaves_whole_receipts_and_a_rerun_completes(
    fresh: Fleet, controller: Controller, seed: int
) -> None:
    before = {host: fresh.inside(host, STANDS) for host in HOSTS}
    running = controller.start("host", "--yes")
    moment = random.Random(seed)
    for _ in range(moment.randint(1, CHANGES)):
        running.await_event("started")
    time.sleep(moment.uniform(0, LONGEST_CHANGE_S))
    running.kill()
    for host in HOSTS:
        receipts(fresh, host)

    again = controller.run("host", "--yes", "--wait", "60")
    assert (again.states, again.exit_code) == (dict.fromkeys(HOSTS, "ready"), 0)
    for host in HOSTS:
        assert {receipt.state for receipt in receipts(fresh, host)} == {COMPLETE}
    assert controller.run("verify").exit_code == 0

    assert controller.run("undo", "--yes").exit_code == 0
    assert {host: fresh.inside(host, STANDS) for host in HOSTS} == before


def test_the_second_of_two_says_who_holds_the_host(fresh: Fleet, controller: Controller) -> None:
    fresh.inside("web-1", HOLD_PACKAGES)
    first = controller.start("host", "--yes")
    while first.await_event("started")["host"] != "web-1":
        pass
    second = controller.run("host", "--yes", "--limit", "web-1")
    fresh.inside("web-1", RELEASE_PACKAGES)
    assert (second.states, second.exit_code) == ({"web-1": "held by another preparation"}, 8)
    problem = second.hosts["web-1"]["problem"]
    assert problem.startswith("another preparation is at work: ")
    assert f", process {first.child.pid} for web-1" in problem
    assert first.end().states == dict.fromkeys(HOSTS, "ready")


def test_the_second_of_two_waits_when_told_to(fresh: Fleet, controller: Controller) -> None:
    before = fresh.inside("web-1", STANDS)
    fresh.inside("web-1", HOLD_PACKAGES)
    first = controller.start("host", "--yes", "--limit", "web-1")
    first.await_event("started")
    second = controller.start("host", "--yes", "--limit", "web-1", "--wait", "60")
    second.await_event("ask")
    fresh.inside("web-1", RELEASE_PACKAGES)
    one, two = first.end(), second.end()
    assert (one.states, two.states) == ({"web-1": "ready"}, {"web-1": "ready"})
    assert (one.exit_code, two.exit_code) == (0, 0)
    # What the first has changed, the second finds as it wants it, and leaves the records of it alone.
    assert set(two.item_states("web-1").values()) == {"as wanted"}
    assert {receipt.state for receipt in receipts(fresh, "web-1")} == {COMPLETE}
    assert controller.run("undo", "--yes", "--limit", "web-1").exit_code == 0
    assert fresh.inside("web-1", STANDS) == before


def test_a_hold_ends_with_the_controller(fresh: Fleet, controller: Controller) -> None:
    fresh.inside("web-1", HOLD_PACKAGES)
    first = controller.start("host", "--yes", "--limit", "web-1")
    first.await_event("started")
    first.kill()
    fresh.inside("web-1", RELEASE_PACKAGES)
    assert controller.run("host", "--yes", "--limit", "web-1").states == {"web-1": "ready"}


def test_what_hangs_is_killed_on_the_host_with_all_it_started(fresh: Fleet) -> None:
    receipt = Receipt("test.hangs", "files.text", {}, by="somebody")
    hanging = Change(receipt, ["sleep 4242 & sh -c 'sleep 4243'", "touch /run/went-on"], deadline_s=1)
    command = SHELL.elevated(SHELL.change(hanging), "sudo")
    done = subprocess.run(fresh.command([*fresh.ssh("web-1"), command]), capture_output=True, timeout=60)
    assert done.returncode == 124  # timeout(1): the time is over
    assert fresh.inside("web-1", "pgrep -a sleep || true") == ""
    assert fresh.inside("web-1", "ls /run/went-on 2>/dev/null || true") == ""
    assert [found.state for found in receipts(fresh, "web-1")] == [FAILED]


def test_what_hangs_is_killed_even_when_nobody_is_connected_any_more(fresh: Fleet) -> None:
    survey = SHELL.elevated(SHELL.survey(["touch /run/begun; sleep 4242"], 2), "sudo")
    connected = subprocess.Popen(fresh.command([*fresh.ssh("web-1"), survey]), stdout=subprocess.DEVNULL)
    fresh.inside("web-1", "until test -e /run/begun; do sleep 0.01; done; pgrep sleep")
    connected.kill()
    connected.wait()
    fresh.inside("web-1", "while pgrep sleep; do sleep 0.1; done", timeout_s=60)


@pytest.mark.soak
def test_a_host_whose_commands_hang_is_given_up_and_the_others_become_ready(
    fresh: Fleet, controller: Controller
) -> None:
    fresh.inside("web-1", "printf '#!/bin/sh\\nexec sleep 4242\\n' > /usr/bin/dpkg-query")
    outcome = controller.run("host", "--yes")
    assert outcome.states == {"web-1": "failed", "web-2": "ready"}
    assert fresh.inside("web-1", "pgrep -a sleep || true") == ""
