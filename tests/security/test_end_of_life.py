"""What is left when a run ends, whoever ends it and however (upstream-gaps.md P15, P18)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.security.callers import Caller, bubblewrap_alone
from tests.security.host import (
    all_namespaces,
    namespaces,
    orphans,
    processes_saying,
    seen_in_mounts,
    since_boot_s,
    wait_for_process,
    wait_until,
    with_word,
)

# A grandchild in a session of its own, whose parent is gone, and which ignores what can be ignored.
DAEMON = (
    "(setsid sh -c 'trap \"\" TERM HUP INT QUIT; sleep {nap}; sleep {nap}' &) > /dev/null 2>&1; sleep 0.1;"
)
API = """
import sys
from mxc_ops import Policy, run
place, command, containment = sys.argv[1:]
run(Policy(containment=containment, read_only=[place], denied=[place + "/no"]), ["sh", "-c", command])
"""
COMMAND_LINE = "import sys; from mxc_ops.cli import main; sys.exit(main())"

_naps = iter(range(1, 10**6))


def new_nap() -> str:
    """A time to sleep that nobody else sleeps: the mark by which a sandbox's processes are found."""
    return f"6{os.getpid() % 1000}.{next(_naps):06d}"


def assert_gone(nap: str) -> None:
    wait_until(lambda: not with_word(nap), f"processes are left: {with_word(nap)}")


def test_a_daemon_ends_with_the_command(caller: Caller) -> None:
    nap = new_nap()
    told = caller.run(f"{DAEMON.format(nap=nap)} grep -l sleep /proc/[0-9]*/comm | wc -l")
    assert told.stdout == "1\n", "the daemon ran"
    assert with_word(nap) == []


def test_a_daemon_ends_at_the_timeout(caller: Caller) -> None:
    nap = new_nap()
    told = caller.run(f"{DAEMON.format(nap=nap)} sleep {nap}", timeout_s=0.5, grace_s=0.1, ends=False)
    assert told.outcome == "timed out"
    assert with_word(nap) == []


@bubblewrap_alone
def test_a_daemon_survives_where_no_process_tree_is_ended(caller: Caller) -> None:
    """The control: bubblewrap without a pid namespace leaves it behind."""
    nap = new_nap()
    caller.bare(DAEMON.format(nap=nap), "--dev", "/dev")
    assert with_word(nap)
    while left := processes_saying(nap):
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def _by_api(caller: Caller, place: Path, nap: str) -> subprocess.Popen[bytes]:
    command = f"{DAEMON.format(nap=nap)} sleep {nap}"
    return caller.popen(["@python", "-c", API, place, command, caller.containment])


def _by_command_line(caller: Caller, place: Path, nap: str) -> subprocess.Popen[bytes]:
    document = {
        "version": "1.0.0",
        "containment": caller.containment,
        "process": {"commandLine": f"{DAEMON.format(nap=nap)} sleep {nap}"},
        "filesystem": {"readonlyPaths": [str(place)], "deniedPaths": [str(place / "no")]},
        "mxcOps": {"limits": {"memoryMib": 500, "pids": 50}},
    }
    config = place / "config.json"
    config.write_text(json.dumps(document))
    return caller.popen(["@python", "-c", COMMAND_LINE, "run", config], stdin=subprocess.DEVNULL)


STARTS: dict[str, Callable[[Caller, Path, str], subprocess.Popen[bytes]]] = {
    "API": _by_api,
    "command line": _by_command_line,
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_when_the_caller_is_ended(
    caller: Caller, place: Path, start: str, number: signal.Signals
) -> None:
    (place / "no").touch()
    nap = new_nap()
    child = STARTS[start](caller, place, nap)
    inside = namespaces(wait_for_process(nap).pid) - namespaces(os.getpid())
    assert len(inside) == 7
    assert seen_in_mounts(place), "while it runs, the grant is mounted"
    begun_s = since_boot_s()
    assert inside <= all_namespaces(before_s=begun_s)
    child.send_signal(number)
    child.wait(20)
    assert_gone(nap)
    wait_until(lambda: not seen_in_mounts(place), "a mount is left behind")
    wait_until(lambda: not inside & all_namespaces(before_s=begun_s), "a namespace is left behind")


@pytest.mark.parametrize("start", STARTS)
def test_nothing_is_left_after_kills_at_any_moment(
    caller: Caller, place: Path, soak: bool, start: str
) -> None:
    """Before the sandbox is there, while it is made, while it runs: SIGKILL cannot be prepared for."""
    (place / "no").touch()
    naps: list[str] = []
    kills = (150 if caller.containment == "bubblewrap" and not caller.session else 50) if soak else 10
    for turn in range(kills):
        naps.append(new_nap())
        child = STARTS[start](caller, place, naps[-1])
        time.sleep(0.3 * turn / kills)
        child.kill()
        child.wait(20)
    for nap in naps:
        wait_until(lambda nap=nap: not processes_saying(nap), "a process is left behind")
    wait_until(lambda: not seen_in_mounts(place), "a mount is left behind, or a process that has it")
    wait_until(lambda: not orphans(), f"left behind: {orphans()}")


def test_the_stream_ends_are_closed_when_the_caller_is_killed(caller: Caller, place: Path) -> None:
    """Whoever reads the output must see its end, not wait for a daemon that holds the pipe."""
    (place / "no").touch()
    nap = new_nap()
    source = API.replace("command])", "command], stdout=1)")
    command = f"(setsid sleep {nap} &); echo here; sleep {nap}"
    child = caller.popen(
        ["@python", "-c", source, place, command, caller.containment], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"here\n"
    child.kill()
    assert child.stdout.read() == b""
    child.wait(20)
    assert_gone(nap)


def test_empty_control_groups_go_at_the_next_start(caller: Caller, place: Path) -> None:
    """SIGKILL leaves them behind (version 1); the next run of anybody removes them."""
    if caller.uid != 0:
        pytest.skip("this user may make no control groups")
    (place / "no").touch()
    nap = new_nap()
    child = _by_command_line(caller, place, nap)
    wait_for_process(nap)
    child.kill()
    child.wait(20)
    assert_gone(nap)
    mark = f"-{child.pid}-"
    fresh = _by_command_line(caller, place, again := new_nap())
    wait_for_process(again)
    fresh.terminate()
    fresh.wait(20)
    groups = os.walk("/sys/fs/cgroup")  # not rglob: it fails on a group that goes while it looks
    assert [place for place, names, _ in groups if any(name.startswith(mark) for name in names)] == []
