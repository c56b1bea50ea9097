"""Reaching processes of the host and of other sandboxes, and the sandbox's own init (upstream-gaps.md P3)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.security.callers import Caller, bubblewrap_alone
from tests.security.host import wait_for_process, wait_until, with_word

ATTEMPTS = ("kill", "trace", "read-memory", "prlimit", "setpriority")


@pytest.fixture
def victim(caller: Caller) -> Iterator[int]:
    """A process of the caller's on the host."""
    child = caller.popen(["sleep", "60.5"])
    wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n", "the victim did not start")
    yield child.pid
    child.kill()
    child.wait()


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_process_of_the_host(caller: Caller, probe: Path, victim: int, attempt: str) -> None:
    attack = [probe, f"{attempt}={victim}"]
    # Bubblewrap puts a plain user into a user namespace, from where the kernel itself refuses to trace.
    control = caller.bare if caller.uid == 0 else caller.program
    assert control(attack).results[attempt] == "ok"
    assert caller.run(attack, read_only=[probe.parent]).results[attempt] in (
        "ESRCH",
        "EPERM",
        "ENOSYS",
        "EACCES",
    )


@pytest.mark.parametrize("attempt", ("trace", "read-memory"))
def test_the_sandboxs_own_init(caller: Caller, probe: Path, attempt: str) -> None:
    attack = [probe, f"{attempt}=1"]
    control = caller.upstream(attack, read_only=[probe.parent]).results[attempt]
    assert control == "ok" or caller.uid != 0, control
    assert caller.run(attack, read_only=[probe.parent]).results[attempt] in ("EPERM", "ENOSYS", "EACCES")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGHUP])
def test_signals_do_not_end_the_sandboxs_init(caller: Caller, number: int) -> None:
    asleep = "grep 'S (sleeping)' /proc/1/status"  # unless it has something to do just then
    told = caller.run(
        f"kill -{int(number)} 1; for n in 1 2 3 4 5 6 7 8; do sleep 0.05; {asleep} && break; done"
    )
    assert "S (sleeping)" in told.stdout, told


def test_signalling_everybody_reaches_nobody_else(caller: Caller, probe: Path, victim: int) -> None:
    neighbour = caller.begin("sleep 1.5; echo unharmed", timeout_s=20)
    wait_for_process("1.5")
    killer = caller.attempt([probe, "kill=-1,9"], read_only=[probe.parent])
    if caller.session:
        assert killer.codes == ("sandbox_ended",), "it reached the agent, and with it its own sandbox"
    else:
        assert (killer.exit_code, killer.outcome) == (137, "signalled"), "it reached its own parent"
    assert neighbour.told().stdout == "unharmed\n"
    assert Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[0] in "SR"


@bubblewrap_alone
def test_a_signal_reaches_a_neighbour_where_the_process_tree_is_shared(caller: Caller, probe: Path) -> None:
    """The control of the test above, with one process as everybody: bubblewrap without a pid namespace."""
    source = """
import signal, subprocess

def main(bare):
    neighbour = subprocess.Popen(["sleep", "60.25"])
    victim = str(neighbour.pid)
    program([word.replace("VICTIM", victim) for word in bare])
    return neighbour.wait(5)
"""
    from tests.security.upstream import bare_argv

    attack = [str(probe), "kill=VICTIM,9"]
    assert caller.call(source, bare=bare_argv(attack)) == -signal.SIGKILL


def test_two_sandboxes_of_root_have_two_uids(caller: Caller) -> None:
    """Per-uid limits and signals are then not shared; a plain user has one uid only."""
    first, second = (caller.begin(["sleep", f"40.{number}"], timeout_s=2) for number in (125, 375))
    uids = {wait_for_process("40.125").uid, wait_for_process("40.375").uid}
    assert [first.told().outcome, second.told().outcome] == ["timed out"] * 2
    assert len(uids) == (2 if caller.uid == 0 else 1)


def test_using_up_its_processes_starves_no_neighbour(caller: Caller, probe: Path) -> None:
    policy: dict[str, Any] = {"read_only": [probe.parent], "limits": {"pids": 24}}
    greedy = caller.begin([probe, "processes=200,3"], **policy, timeout_s=20)
    wait_for_process("processes=200,3")
    wait_until(lambda: len(with_word("processes=200,3")) > 15, "the fork bomb did not grow")
    neighbour = caller.run([probe, "processes=10"], **policy)
    assert neighbour.stdout.splitlines() == ["made 10", "processes ok"]
    told = greedy.told()
    made = int(told.stdout.split()[1])
    assert made < 24 and "processes EAGAIN" in told.stdout


@bubblewrap_alone
def test_without_a_namespace_of_its_own_one_uid_is_shared(caller: Caller, probe: Path) -> None:
    """The control: RLIMIT_NPROC set outside counts every process of that uid on the host."""
    if caller.uid == 0:
        pytest.skip("RLIMIT_NPROC does not bind root")
    source = """
import resource, subprocess

def main(probe):
    hoard = subprocess.Popen([probe, "processes=40,20"], stdout=subprocess.PIPE)
    hoard.stdout.readline()
    limit = lambda: resource.setrlimit(resource.RLIMIT_NPROC, (30, 30))
    try:
        return subprocess.run([probe, "processes=2"], preexec_fn=limit, capture_output=True).stdout.decode()
    except BlockingIOError:
        return "EAGAIN"
    finally:
        hoard.kill()
        hoard.wait()
"""
    said = caller.call(source, probe=probe)
    _end_children(probe)
    assert "EAGAIN" in said or "no-child" in said


def _end_children(probe: Path) -> None:
    for process in with_word("processes=40,20"):
        if process.words[0] == str(probe):
            os.kill(process.pid, signal.SIGKILL)
