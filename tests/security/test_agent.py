"""No command of a session escapes its timeout: neither by an attack on its agent, which has the rights of
commands, nor in what it has started."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mxc_ops import Limits, Outcome, Policy, Session
from mxc_ops.session.service import Sessions
from tests.e2e.sessions import until
from tests.images import image
from tests.security.callers import BY_SESSION, Caller
from tests.security.host import processes_saying, wait_for_process, with_word

in_sessions = pytest.mark.parametrize(
    "caller",
    [
        *BY_SESSION,
        pytest.param(("root", "lxc", "session"), id="lxc-session", marks=pytest.mark.backend("lxc")),
        pytest.param(("user", "lxc", "session"), id="lxc-session-user", marks=pytest.mark.backend("lxc")),
    ],
    indirect=True,
)
_PTRACE_ATTACH, _WALL = 16, 0x40000000


by_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts containers and may hold an agent")
kinds = pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc")]
)


def is_running(session: Session) -> bool:
    """Somebody's `gc` may have found it in the meantime."""
    return Sessions().inspect(session.id)["state"] == "running"


@contextmanager
def opened(kind: str, probe: Path, **more: Any) -> Generator[Session]:
    if kind != "bubblewrap":
        image("base")
    with Session.open(Policy(containment=kind, read_only=[probe.parent], **more)) as session:
        yield session


_WITHIN = r"""
import os
from mxc_ops import Limits, Policy, Session

def main(attack):
    policy = Policy(containment=os.environ["CONTAINMENT"], limits=Limits(pids=100))
    with Session.open(policy) as session:
        session.exec("setsid sleep 41.375 >/dev/null 2>&1 &")
        late = session.exec(attack, policy=session.policy(timeout_s=1))
        programs = session.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout.decode()
        return [late.outcome.value, "sleep 31.375" in programs, "sleep 41.375" in programs]
"""
_ESCAPES = (
    "setsid -w sleep 31.375",
    "(setsid sleep 31.375 &); sleep 31.375",
    "setsid sh -c 'setsid sleep 31.375 & setsid sleep 31.375 & wait' & wait",
    "setsid sh -c 'trap \"\" TERM; sleep 31.375' & wait",
    "(trap '' TERM; sleep 31.375) & wait",
    "prlimit --locks=5 setsid sleep 31.375 & prlimit --rttime=5 setsid sleep 31.375 & wait",
)
_ALL_ESCAPES = " & ".join(f"({escape})" for escape in _ESCAPES) + " & sleep 31.375"
_BOMB = (
    "(f() { setsid sh -c 'trap : TERM; while :; do setsid sleep 31.375 & done' & f; }; f) 2>/dev/null &"
    " exec sleep 60"
)


@in_sessions
@pytest.mark.parametrize("attack", [_ALL_ESCAPES, _BOMB], ids=["escapes", "bomb"])
def test_a_timeout_ends_all_that_a_command_has_started_and_nothing_else(caller: Caller, attack: str) -> None:
    assert caller.call(_WITHIN, attack=attack) == ["timed out", False, True]


@pytest.mark.backend("vm")
def test_so_it_does_in_a_machine() -> None:
    image("base")
    with Session.open(Policy(containment="vm")) as session:
        session.exec("setsid sleep 41.375 >/dev/null 2>&1 &")
        late = session.exec(_ALL_ESCAPES, policy=session.policy(timeout_s=3))
        programs = session.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    assert late.outcome is Outcome.TIMED_OUT
    assert b"sleep 31.375" not in programs
    assert b"sleep 41.375" in programs


@by_root
@pytest.mark.parametrize("grace_s", [0, 0.2])
@pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc", "vm")]
)
def test_none_escapes_by_forking_and_ending_all_the_time(kind: str, probe: Path, grace_s: float) -> None:
    with opened(kind, probe) as session:
        session.exec("for n in $(seq 80); do sleep 600 >/dev/null 2>&1 & done")
        policy = session.policy(timeout_s=1, grace_s=grace_s)
        assert session.exec([str(probe), "chain=60"], policy=policy).outcome is Outcome.TIMED_OUT
        assert b"probe" not in session.exec("cat /proc/[0-9]*/comm").stdout


@in_sessions
def test_one_that_takes_the_agents_marks_away_ends_the_sandbox(caller: Caller) -> None:
    attack = "prlimit --pid $PPID --locks=5; sleep 1"
    source = """
import os, time
from mxc_ops import MxcError, Policy, Session
from mxc_ops.session.service import Sessions

def main(attack):
    with Session.open(Policy(containment=os.environ["CONTAINMENT"])) as session:
        session.exec(attack)
        try:
            return session.exec("echo on").stdout.decode()
        except MxcError as error:
            deadline = time.monotonic() + 20
            while Sessions().inspect(session.id)["state"] == "running" and time.monotonic() < deadline:
                time.sleep(0.02)
            return [error.problems[0].code, Sessions().inspect(session.id)["state"] == "running"]
"""
    assert caller.call(source, attack=attack) == ["sandbox_ended", False]


@pytest.mark.backend("bubblewrap")
@pytest.mark.parametrize("name", ["locks", "rttime"])
def test_where_our_own_limits_leave_no_room_for_that_nothing_is_started(name: str) -> None:
    source = "from mxc_ops import Policy, Session; Session.open(Policy(containment='bubblewrap'))"
    opening = subprocess.run(
        ["prlimit", f"--{name}=9999:9999", sys.executable, "-c", source], capture_output=True, text=True
    )
    assert f"the hard limit of {name} is 9999" in opening.stderr
    assert f"fix: sudo prlimit --pid $$ --{name}=unlimited" in opening.stderr


@in_sessions
@pytest.mark.parametrize("number", [19, 20, 22])
def test_a_command_that_stops_its_agent_ends_at_its_timeout(caller: Caller, number: int) -> None:
    told = caller.attempt(f"kill -{number} $PPID; sleep 30.75", timeout_s=1)
    assert told.outcome == "timed out", told
    assert not with_word("30.75")


@in_sessions
def test_so_does_one_that_stops_it_all_the_time(caller: Caller) -> None:
    told = caller.attempt("trap '' TERM; n=0; while :; do kill -STOP $PPID; done", timeout_s=1)
    assert told.outcome == "timed out" or told.codes == ("sandbox_ended",), told


@in_sessions
def test_so_does_one_that_floods_it_with_signals(caller: Caller, probe: Path) -> None:
    told = caller.attempt(f"{probe} flood=$PPID,30", read_only=[probe.parent], timeout_s=1)
    assert told.outcome == "timed out", told
    assert not processes_saying("flood=")


@in_sessions
def test_one_that_takes_its_descriptors_away_ends_the_sandbox(caller: Caller, probe: Path) -> None:
    """It sees no processes then, so that it could not end one: all of them are ended."""
    attack = f"trap '' TERM; {probe} starve=$PPID; sleep 30.875"
    told = caller.attempt(attack, read_only=[probe.parent], timeout_s=1)
    assert told.codes == ("sandbox_ended",), told
    assert not with_word("30.875")


@in_sessions
def test_open_files_bind_commands_and_not_the_agent(caller: Caller) -> None:
    limits = {"open_files": 16, "cpu_seconds": 1}
    told = caller.attempt("ulimit -Sn; ulimit -Hn; ulimit -t", limits=limits)
    assert told.stdout.split() == ["16", "16", "1"]


@by_root
@kinds
def test_so_they_do_detached_ones(kind: str, probe: Path) -> None:
    with opened(kind, probe, limits=Limits(open_files=16, cpu_seconds=1)) as session:
        job = session.detach(["sh", "-c", "ulimit -n; ulimit -t; while :; do :; done"])["job"]
        assert session.wait(job)["status"] == signal.SIGXCPU
        assert session.log(job, "out")[0] == b"16\n1\n"
        assert session.exec("echo on").stdout == b"on\n", "the agent was not bound"


@by_root
@kinds
def test_one_that_looks_dead_ends_at_its_timeout(kind: str, probe: Path) -> None:
    with opened(kind, probe) as session:
        late = session.exec([str(probe), "lose-first-thread=60"], policy=session.policy(timeout_s=1))
        assert late.outcome is Outcome.TIMED_OUT
        assert b"probe" not in session.exec("cat /proc/[0-9]*/comm").stdout


@by_root
def test_one_whose_end_another_hides_by_tracing_it_ends_the_sandbox(probe: Path) -> None:
    with opened("bubblewrap", probe, seccomp="debug") as session:
        session.detach(["sh", "-c", "echo $$ >/tmp/traced; exec sleep 60.125"], timeout_s=3)
        session.detach(["sh", "-c", f"until {probe} hide-end=$(cat /tmp/traced),60; do :; done"])
        until(lambda: not is_running(session))
    assert not with_word("60.125")
    assert not processes_saying("hide-end=")


@by_root
@kinds
def test_a_sandbox_whose_agent_is_held_up_ends(kind: str, probe: Path) -> None:
    """By whatever means: here it is traced, which nothing inside can do."""
    libc = ctypes.CDLL(None, use_errno=True)
    with opened(kind, probe) as session:
        session.detach(["sleep", "600.625"])
        status = Path(f"/proc/{wait_for_process('600.625').pid}/status").read_text()
        agent = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
        assert libc.ptrace(_PTRACE_ATTACH, agent, None, None) == 0

        def is_gone() -> bool:
            """It is a child of ours as long as we trace it, and is gone when we have seen its end."""
            with suppress(ChildProcessError):
                os.waitpid(agent, os.WNOHANG | _WALL)
            return not is_running(session)

        until(is_gone)
    assert not with_word("600.625")
