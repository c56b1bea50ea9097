"""The guest agent runs programs: as process 1 of namespaces of its own, over a socket."""

from __future__ import annotations

import os
import resource
import signal
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from backends.inside import agent_codec
from backends.inside.agent_protocol import (
    WINDOW,
    Channel,
    EndedFlag,
    Flag,
    GuestCommand,
    GuestIdentity,
    Kind,
    Step,
)
from tests.e2e.commands import wait_until
from tests.unit.agent_client import PATH, AgentClient, private_agent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="an agent is root in its namespaces")
RLIMIT_LOCKS = 10  # which Python has no name for
WITHOUT_MKDIR = {"x86_64": 83, "aarch64": 34}


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentClient]:
    with private_agent() as client:
        yield client


def shell(script: str, **more: Any) -> GuestCommand:
    return GuestCommand(("sh", "-c", script), PATH, **more)


def test_a_program_has_its_streams_and_tells_its_end(agent: AgentClient) -> None:
    done = agent.run(shell("cat; echo problem >&2; exit 3"), b"input\n" * 9000)
    assert (done.stdout, done.stderr, done.exit_code) == (b"input\n" * 9000, b"problem\n", 3)
    assert done.ended is not None
    assert done.ended.max_rss_kib > 100
    assert agent.run(shell("kill -KILL $$")).exit_code == -signal.SIGKILL


def test_it_has_exactly_what_was_asked_for(agent: AgentClient) -> None:
    spec = GuestCommand(
        ("sh", "-c", "pwd; umask; ulimit -n; env; ls -l /proc/self/fd"), (*PATH, ("A", "b=c")), "/usr",
        (7, 8), ((7, 50, 60),), 0o027, no_input=True,
    )  # fmt: skip
    lines = agent.run(spec).stdout.decode().splitlines()
    assert lines[:3] == ["/usr", "0027", "50"]
    assert {"A=b=c", f"PATH={PATH[0][1]}"} <= set(lines)
    assert not [line for line in lines if line.startswith(("HOME=", "LANG="))]
    assert [line.split()[8] for line in lines if "->" in line] == ["0", "1", "2", "3"]  # 3: the folder itself
    assert agent.run(shell("id -u; id -g", user=(7, 8))).stdout.split() == [b"7", b"8"]


@pytest.mark.parametrize("uid", [0, 1000])
def test_it_has_no_privileges_and_cannot_regain_any(agent: AgentClient, uid: int) -> None:
    status = agent.run(GuestCommand(("cat", "/proc/self/status"), PATH, user=(uid, uid))).stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    sets = [fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
    assert sets == ["0" * 16] * 5
    assert (fields["NoNewPrivs"], fields["Groups"].strip()) == ("1", "")


def test_a_privileged_one_keeps_them(agent: AgentClient) -> None:
    spec = GuestCommand(("cat", "/proc/self/status"), PATH, user=(0, 0), privileged=True)
    status = agent.run(spec).stdout.decode()
    assert "CapEff:\t0000000000000000" not in status
    assert "NoNewPrivs:\t0" in status


def test_the_filter_is_the_last_thing_that_is_set(agent: AgentClient) -> None:
    number = WITHOUT_MKDIR[os.uname().machine]
    instructions = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("<HBBI", *instruction) for instruction in instructions)
    done = agent.run(shell("mkdir /tmp/refused; uname", seccomp=program))
    assert b"not permitted" in done.stderr
    assert done.stdout == b"Linux\n"


@pytest.mark.parametrize(
    ("spec", "step", "errno"),
    [
        (GuestCommand(("no-such-program",), PATH), Step.EXEC, 2),
        (GuestCommand(("/etc/passwd/x",), PATH), Step.EXEC, 20),
        (GuestCommand(("/etc/passwd",), PATH), Step.EXEC, 13),
        (GuestCommand(("true",), PATH, cwd="/no/such"), Step.CWD, 2),
        (GuestCommand(("true",), PATH, rlimits=((99, 1, 1),)), Step.RLIMIT, 22),
        (GuestCommand(("true",), PATH, rlimits=((RLIMIT_LOCKS, 1, 1),)), Step.MESSAGE, 22),
        (GuestCommand(("true",), PATH, rlimits=((resource.RLIMIT_RTTIME, 1, 1),)), Step.MESSAGE, 22),
        (GuestCommand(("true",), PATH, seccomp=bytes(8)), Step.SECCOMP, 22),
        (GuestCommand(("x",), PATH, zygote="print(1)"), Step.ZYGOTE, 2),
    ],
)
def test_what_cannot_be_started_says_where_it_failed(
    agent: AgentClient, spec: GuestCommand, step: Step, errno: int
) -> None:
    done = agent.run(spec)
    assert done.failed is not None
    assert (done.failed.step, done.failed.errno, done.stdout) == (step, errno, b"")


def test_a_message_that_is_none_fails_by_itself(agent: AgentClient) -> None:
    for kind in (Kind.EXEC, Kind.MOUNT, Kind.PUT):
        frame = agent.ask(kind, b"\1\0\0\0\xff\0\0\0")
        assert agent_codec.read_failed(frame.payload).step is Step.MESSAGE
    assert agent.ask(Kind.PING).kind is Kind.PONG


# --- flow


def test_output_waits_for_credit_and_holds_nobody_else_up(agent: AgentClient) -> None:
    stream = agent.start(GuestCommand(("head", "-c", str(1 << 20), "/dev/zero"), PATH, no_input=True))
    agent.wait_for(stream, Kind.STARTED)
    got = 0
    while got < WINDOW:
        got += len(agent.wait_for(stream, Kind.OUTPUT).payload)
    assert agent.run(GuestCommand(("echo", "other"), PATH)).stdout == b"other\n"
    assert agent.kept.get(stream, []) == []
    agent.send(Kind.CREDIT, stream, agent_codec.number(WINDOW), Channel.STDOUT)
    done = agent.finish(stream)
    assert (got, len(done.stdout), done.exit_code) == (WINDOW, (1 << 20) - WINDOW, 0)


def test_input_is_granted_again_as_it_is_read(agent: AgentClient) -> None:
    stream = agent.start(shell("sleep 0.3; wc -c"))
    sent, credit = 0, WINDOW
    while sent < 4 * WINDOW:
        while credit < 65536:
            credit += agent_codec.read_number(agent.wait_for(stream, Kind.INPUT_CREDIT).payload)
        agent.send(Kind.INPUT, stream, bytes(65536))
        sent, credit = sent + 65536, credit - 65536
    agent.send(Kind.INPUT_END, stream)
    assert agent.finish(stream).stdout.split() == [str(sent).encode()]


def test_input_that_nobody_reads_is_told(agent: AgentClient) -> None:
    stream = agent.start(shell("exec <&-; echo closed; sleep 0.2"))
    kinds = {agent.next_frame(stream).kind for _ in range(3)}
    assert kinds == {Kind.STARTED, Kind.INPUT_CLOSED, Kind.OUTPUT}
    agent.send(Kind.INPUT, stream, bytes(65536))
    assert agent.finish(stream).exit_code == 0


def test_others_that_hold_the_output_do_not_hold_the_end(agent: AgentClient) -> None:
    before = time.monotonic()
    done = agent.run(shell("sleep 60 & echo here"))
    assert (done.stdout, done.exit_code) == (b"here\n", 0)
    assert time.monotonic() - before < 30
    agent.send(Kind.SIGNAL, 0, agent_codec.number(signal.SIGKILL), Flag.EVERY)


def test_many_run_at_once(agent: AgentClient) -> None:
    files = agent.run(shell("ulimit -n; ulimit -Hn")).stdout
    streams = [agent.start(GuestCommand(("cat",), PATH)) for _ in range(300)]
    for stream in streams:
        agent.send(Kind.INPUT, stream, b"%d" % stream)
        agent.send(Kind.INPUT_END, stream)
    assert [agent.finish(stream).stdout for stream in streams] == [b"%d" % stream for stream in streams]
    assert files.split() == [b"1024", b"4096"]  # what each would have without the agent


# --- terminals


def test_a_terminal_is_the_controlling_one_and_can_be_resized(agent: AgentClient) -> None:
    script = (
        "trap 'stty size; exit 0' WINCH; tty -s && stty size; echo x >/dev/tty; while :; do sleep 0.1; done"
    )
    stream = agent.start(shell(script, tty=(20, 30)))
    seen = b""
    while b"x" not in seen:
        seen += agent.wait_for(stream, Kind.OUTPUT).payload
    agent.send(Kind.RESIZE, stream, agent_codec.resize(40, 50))
    done = agent.finish(stream)
    assert (seen + done.stdout).split() == [b"20", b"30", b"x", b"40", b"50"]
    assert done.stderr == b""


def test_keys_and_the_end_of_input_reach_a_terminals_program(agent: AgentClient) -> None:
    stream = agent.start(GuestCommand(("cat",), PATH, tty=(20, 30)))
    agent.send(Kind.INPUT, stream, b"line\n")
    agent.send(Kind.INPUT_END, stream)
    assert agent.finish(stream).exit_code == 0
    stream = agent.start(shell("echo ready; exec sleep 60", tty=(20, 30)))
    agent.wait_for(stream, Kind.OUTPUT)
    agent.send(Kind.INPUT, stream, b"\x03")
    assert agent.finish(stream).exit_code == -signal.SIGINT


# --- ends


def test_a_signal_reaches_all_of_one_program_and_nobody_else(agent: AgentClient) -> None:
    other = agent.start(shell("echo ready; exec sleep 60"))
    stream = agent.start(shell("(sleep 60; echo never) & echo ready; wait"))
    for each in (other, stream):
        agent.wait_for(each, Kind.OUTPUT)
    agent.send(Kind.SIGNAL, stream, agent_codec.number(signal.SIGTERM))
    assert agent.finish(stream).exit_code == -signal.SIGTERM
    agent.send(Kind.SIGNAL, 0, agent_codec.number(signal.SIGKILL), Flag.EVERY)
    assert agent.finish(other).exit_code == -signal.SIGKILL
    assert agent_codec.read_report(agent.ask(Kind.REPORT).payload).processes == 1


def test_time_runs_out_with_a_warning_first(agent: AgentClient) -> None:
    done = agent.run(shell("trap 'echo warned; exit 5' TERM; sleep 60 & wait", timeout=(200, 20_000, 15)))
    assert (done.stdout, done.exit_code) == (b"warned\n", 5)
    assert done.ended is not None
    assert done.ended.flags == EndedFlag.TIMED_OUT
    deaf = agent.run(shell("trap '' TERM; while :; do sleep 0.1; done", timeout=(200, 200, 15)))
    assert deaf.exit_code == -signal.SIGKILL
    assert agent.run(shell("true", timeout=(20_000, 1, 15))).ended is not None


def test_a_time_that_is_up_after_the_end_kills_what_was_left_behind(agent: AgentClient) -> None:
    """The end is not told before all output is out, and nobody has taken that yet."""
    line = "(trap '' TERM; head -c 400000 /dev/zero; exec sleep 63.5) & sleep 0.1"
    stream = agent.start(shell(line, no_input=True))
    pid = agent_codec.read_number(agent.wait_for(stream, Kind.STARTED).payload)
    while agent.run(shell(f"test -e /proc/{pid}")).exit_code == 0:
        time.sleep(0.02)
    agent.send(Kind.SIGNAL, stream, agent_codec.number(signal.SIGTERM), Flag.LAST)
    assert agent.finish(stream).exit_code == 0
    assert b"63.5" not in agent.run(shell("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout


def test_nothing_that_loses_its_parent_stays_a_zombie(agent: AgentClient) -> None:
    agent.run(shell("for i in 1 2 3; do (sh -c 'exit 1' & ) ; done; sleep 0.1"))
    assert b"defunct" not in agent.run(GuestCommand(("ps", "ax"), PATH)).stdout


def test_a_program_of_a_control_group_is_in_it_and_takes_it_along() -> None:
    with private_agent("mount -t cgroup2 none /sys/fs/cgroup") as agent:
        spec = shell("sleep 60 & cat /proc/self/cgroup", cgroup=(("cgroup.max.depth", "1"),))
        assert b"/limits-1/exec-2\n" in agent.run(spec).stdout
        assert b"/limits-1/exec-3\n" in agent.run(spec).stdout, "the same limits hold for both together"
        look = shell("ls /sys/fs/cgroup/limits-*; ps ax")
        wait_until(lambda: b"exec-" not in agent.run(look).stdout, "a group has gone with its last process")
        assert b"sleep" not in agent.run(look).stdout
        done = agent.run(shell("true", cgroup=(("no.such.file", "1"),)))
        assert done.failed is not None
        assert (done.failed.step, done.failed.subject) == (Step.CGROUP, "no.such.file=1")
        done = agent.run(shell("true", cgroup=(("../escape", "1"),)))
        assert done.failed is not None
        assert done.failed.errno == 22


def test_a_sandbox_cannot_be_given_another_identity(agent: AgentClient) -> None:
    new = agent_codec.identity(GuestIdentity(0, bytes(64), "0" * 32, bytes(6), "other"))
    failed = agent_codec.read_failed(agent.ask(Kind.IDENTITY, new).payload)
    assert (failed.step, failed.errno) == (Step.CLOCK, 1)


def test_power_off_ends_it_with_all_that_runs() -> None:
    with private_agent() as agent:
        agent.run(shell("sleep 60 >/dev/null 2>&1 &"))
        agent.send(Kind.POWER_OFF)
        with pytest.raises(EOFError):
            agent.next_frame(99)


def test_the_report_counts(agent: AgentClient) -> None:
    stream = agent.start(shell("echo ready; exec sleep 60"))
    agent.wait_for(stream, Kind.OUTPUT)
    report = agent_codec.read_report(agent.ask(Kind.REPORT).payload)
    assert (report.streams, report.processes) == (1, 2)
    assert report.memory_total > report.memory_available > 0
    assert report.uptime_us > 0
    assert report.cpu_us > 0
    agent.send(Kind.SIGNAL, stream, agent_codec.number(signal.SIGKILL))
    agent.finish(stream)
