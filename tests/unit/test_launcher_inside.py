"""Process 1 of the sandbox: what the workload gets, and what it cannot get at."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import subprocess
from pathlib import Path

import pytest

from backends.inside import protocol
from backends.inside.protocol import EndedMessage, Started, Step
from tests.unit.launching import (
    AS_PROCESS_1,
    DEADLINE_S,
    SANDBOX_UID,
    Launch,
    inside_spec,
    run_inside,
    start_inside,
)

PRINT_ENVIRONMENT = (
    "import os, sys; sys.stdout.buffer.write(b'\\0'.join(k + b'=' + v for k, v in os.environb.items()))"
)


def children_of(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def process_1_of(launch: Launch) -> int:
    [pid] = children_of(launch.process.pid)
    return pid


def await_line(launch: Launch) -> bytes:
    assert launch.process.stdout is not None
    ready, _, _ = select.select([launch.process.stdout], [], [], DEADLINE_S)
    assert ready, "the workload wrote nothing"
    return launch.process.stdout.readline()


def await_state(pid: int, state: str) -> None:
    """Wait for T (stopped) or Z (ended, not waited for)."""
    for _ in range(1000):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == state:
            return
        select.select([], [], [], 0.01)
    pytest.fail(f"{pid} never came to state {state}")


def test_streams_exit_code_and_messages_of_an_ordinary_run() -> None:
    run = run_inside("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (run.stdout, run.stderr, run.exit_code) == (b"out\n", b"err\n", 3)
    assert run.messages[0] == Started(landlock_abi=0)
    assert os.waitstatus_to_exitcode(run.ended.status) == 3


def test_arguments_arrive_byte_for_byte() -> None:
    arguments = ("", "two words", "a=b", "grün", "\udcff", "-n", "line\nbreak")
    run = run_inside(
        "python3", "-c", "import sys; sys.stdout.buffer.write(ascii(sys.argv[1:]).encode())", *arguments
    )
    assert run.stdout.decode() == ascii(list(arguments))


def test_environment_is_exactly_what_was_given() -> None:
    env = (("A", "with = and space"), ("B", ""), ("Ü", "ü\n"), ("PATH", "/usr/bin"), ("LC_ALL", "C.UTF-8"))
    run = run_inside("/usr/bin/python3", "-c", PRINT_ENVIRONMENT, env=env)
    assert sorted(run.stdout.split(b"\0")) == sorted(f"{name}={value}".encode() for name, value in env)


def test_a_signalled_workload_ends_with_128_plus_the_signal() -> None:
    run = run_inside("sh", "-c", "kill -9 $$")
    assert run.exit_code == 128 + 9
    assert os.WTERMSIG(run.ended.status) == 9


@pytest.mark.parametrize(
    ("program", "exit_code", "error"),
    [
        ("no-such-program", protocol.EXIT_NOT_FOUND, errno.ENOENT),
        ("/no/such/program", protocol.EXIT_NOT_FOUND, errno.ENOENT),
        ("", protocol.EXIT_NOT_FOUND, errno.ENOENT),
        ("/etc/passwd", protocol.EXIT_CANNOT_EXECUTE, errno.EACCES),
        ("/etc", protocol.EXIT_CANNOT_EXECUTE, errno.EACCES),
    ],
)
def test_a_program_that_cannot_start_is_reported_with_its_errno(
    program: str, exit_code: int, error: int
) -> None:
    run = run_inside(program)
    assert run.exit_code == exit_code
    assert (run.failure.step, run.failure.errno) == (Step.EXEC, error)
    assert not any(isinstance(message, Started | EndedMessage) for message in run.messages)


def test_programs_are_looked_up_in_the_given_path_in_order(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for folder, mode in (("closed", 0o644), ("first", 0o755), ("second", 0o755)):
        program = tmp_path / folder / "tool"
        program.parent.mkdir(mode=0o755)
        program.write_text(f"#!/bin/sh\necho {folder}\n")
        program.chmod(mode)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    path = ":".join(str(tmp_path / folder) for folder in ("missing", "closed", "first", "second"))
    assert run_inside("tool", env=(("PATH", path),)).stdout == b"first\n"
    only_closed = run_inside("tool", env=(("PATH", str(tmp_path / "closed")),))
    assert (only_closed.failure.errno, only_closed.exit_code) == (errno.EACCES, protocol.EXIT_CANNOT_EXECUTE)


def test_a_missing_working_directory_is_an_error_not_a_fallback() -> None:
    run = run_inside("pwd", cwd="/no/such/directory")
    assert (run.failure.step, run.failure.errno, run.exit_code) == (Step.CWD, errno.ENOENT, 125)
    assert run_inside("pwd", cwd="/usr").stdout == b"/usr\n"


def test_umask_and_resource_limits_are_set() -> None:
    limits = ((resource.RLIMIT_NOFILE, 40, 50), (resource.RLIMIT_CORE, 0, 0))
    run = run_inside("sh", "-c", "umask; ulimit -Sn; ulimit -Hn; ulimit -c", umask=0o077, rlimits=limits)
    assert run.stdout.split() == [b"0077", b"40", b"50", b"0"]


def test_a_limit_that_cannot_be_set_is_named_by_its_position() -> None:
    run = run_inside("true", rlimits=((resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_CPU, 2, 1)))
    assert (run.failure.step, run.failure.index) == (Step.RLIMIT, 1)


def test_nothing_of_process_1_can_be_read_by_the_workload() -> None:
    script = (
        "for name in environ mem maps; do cat /proc/1/$name; done; ls /proc/1/fd /proc/1/cwd/ /proc/1/exe/"
    )
    run = run_inside("sh", "-c", f"{script}; cat /proc/$$/environ")
    assert run.stdout == b"PATH=/usr/bin:/bin\0"
    assert b"LAUNCHER_SECRET" not in run.stdout + run.stderr
    assert run.stderr.count(b"ermission denied") >= 6


def test_the_workload_inherits_no_descriptor_but_its_streams() -> None:
    read_end, write_end = os.pipe()
    try:
        run = run_inside("sh", "-c", "ls /proc/self/fd", hold=(write_end,), pass_fds=(write_end, read_end))
    finally:
        os.close(read_end)
        os.close(write_end)
    assert run.stdout.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls's own


def test_the_workload_gets_what_it_is_given_under_the_same_number() -> None:
    read_end, write_end = os.pipe()
    write = f"import os; os.write({write_end}, b'given')"
    try:
        run = run_inside("python3", "-c", write, give=(write_end,), pass_fds=(write_end,))
    finally:
        os.close(write_end)
    with os.fdopen(read_end, "rb") as given:
        assert (run.exit_code, given.read()) == (0, b"given")


def test_messages_that_come_too_late_do_not_cost_the_end() -> None:
    with start_inside(inside_spec("sh", "-c", "echo; sleep 100")) as launch:
        await_line(launch)
        process_1 = process_1_of(launch)
        [workload] = children_of(process_1)
        os.kill(process_1, signal.SIGSTOP)
        await_state(process_1, "T")
        os.kill(workload, signal.SIGKILL)
        await_state(workload, "Z")
        for _ in range(5):
            launch.signal(signal.SIGWINCH)
        os.kill(process_1, signal.SIGCONT)
        assert os.WTERMSIG(launch.finish().ended.status) == signal.SIGKILL


def test_a_held_descriptor_lives_exactly_as_long_as_the_sandbox() -> None:
    read_end, write_end = os.pipe()
    with start_inside(
        inside_spec("sh", "-c", "echo; sleep 100", hold=(write_end,)), pass_fds=(write_end,)
    ) as launch:
        os.close(write_end)
        await_line(launch)
        assert select.select([read_end], [], [], 0)[0] == []
        launch.signal(signal.SIGKILL)
        launch.finish()
    assert os.read(read_end, 1) == b""
    os.close(read_end)


@pytest.mark.skipif(os.geteuid() != 0, reason="not even its caller can look into process 1: run as root")
def test_process_1_keeps_only_the_control_socket_and_what_it_holds() -> None:
    read_end, write_end = os.pipe()
    spec = inside_spec("sh", "-c", "echo; sleep 100", hold=(write_end,))
    with start_inside(spec, pass_fds=(read_end, write_end)) as launch:
        assert isinstance(launch.message(), Started)
        entries = Path(f"/proc/{process_1_of(launch)}/fd").iterdir()
        targets = sorted(str(entry.readlink()).split(":")[0] for entry in entries)
    os.close(read_end)
    os.close(write_end)
    assert targets == ["/dev/null"] * 3 + ["anon_inode", "pipe", "socket"]


def test_the_sandbox_dies_when_the_host_closes_the_control_socket() -> None:
    with start_inside(inside_spec("sh", "-c", "trap '' TERM HUP INT; echo; sleep 100; sleep 100")) as launch:
        await_line(launch)
        [workload] = children_of(process_1_of(launch))
        pidfd = os.pidfd_open(workload)
        launch.control.close()
        assert select.select([pidfd], [], [], DEADLINE_S)[0], "the workload outlives its host"
        os.close(pidfd)


def test_the_sandbox_ends_with_the_process_it_was_told_to_watch() -> None:
    """Also when a fork of that process still holds the control socket."""
    with subprocess.Popen(["sleep", "100"]) as watched:
        pidfd = os.pidfd_open(watched.pid)
        with start_inside(inside_spec("sleep", "100", owners=(pidfd,)), pass_fds=(pidfd,)) as launch:
            assert isinstance(launch.message(), Started)
            watched.kill()
            assert launch.process.wait(DEADLINE_S) == protocol.EXIT_SETUP_FAILED
        os.close(pidfd)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else: run as root")
def test_the_sandbox_ends_with_what_started_it_also_when_it_became_somebody_else() -> None:
    """The kernel forgets the signal for a parent's death when a process changes its user."""
    spec = inside_spec("sleep", "100", user=(SANDBOX_UID, SANDBOX_UID))
    with start_inside(spec, wrapper=("unshare", "--pid", "--fork", "--mount-proc", "--")) as launch:
        assert isinstance(launch.message(), Started)
        launch.process.kill()
        assert launch.message() is None, "its end of the socket is closed"


def test_a_signal_message_reaches_every_process_also_in_other_sessions() -> None:
    inner = "trap 'echo inner; exit' USR1; echo; while :; do sleep 0.05; done"
    script = f'trap : USR1; setsid sh -c "{inner}" & wait; wait; echo outer'
    with start_inside(inside_spec("sh", "-c", script)) as launch:
        await_line(launch)
        launch.signal(signal.SIGUSR1)
        assert launch.finish().stdout == b"inner\nouter\n"


def test_a_signal_from_outside_is_passed_on_and_one_from_inside_is_not() -> None:
    with start_inside(inside_spec("sh", "-c", "kill -TERM 1; sleep 0.2; echo alive; sleep 100")) as launch:
        assert await_line(launch) == b"alive\n"
        os.kill(process_1_of(launch), signal.SIGTERM)
        assert os.WTERMSIG(launch.finish().ended.status) == signal.SIGTERM


def test_usage_counts_grandchildren() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    run = run_inside("sh", "-c", 'python3 -c "$0"; true', burn)
    assert run.ended.user_us + run.ended.system_us >= 200_000
    assert run.ended.max_rss_kib > 1000


def test_what_the_workload_leaves_running_is_killed_before_the_end_is_told() -> None:
    left = "trap '' TERM HUP; exec sleep 100"
    with start_inside(
        inside_spec("sh", "-c", f'setsid sh -c "{left}" & setsid sh -c "{left}" & echo; exit 7')
    ) as launch:
        run = launch.finish()  # waits for the end of standard output, which the leftovers hold
    assert run.exit_code == 7


def test_the_workloads_standard_error_is_the_named_descriptor() -> None:
    read_end, write_end = os.pipe()
    run = run_inside("sh", "-c", "echo apart >&2", stderr=write_end, pass_fds=(write_end,))
    os.close(write_end)
    assert (os.read(read_end, 100), run.stderr) == (b"apart\n", b"")
    os.close(read_end)


def test_a_terminal_becomes_the_controlling_one_and_delivers_ctrl_c() -> None:
    master, slave = os.openpty()
    os.fchmod(slave, 0o666)
    script = "trap 'echo interrupted; exit 5' INT; : < /dev/tty && echo has-tty; while :; do sleep 0.05; done"
    try:
        with start_inside(inside_spec("sh", "-c", script, tty=True), stdin=slave) as launch:
            assert await_line(launch) == b"has-tty\n"
            os.write(master, b"\x03")
            run = launch.finish()
        assert (run.stdout, run.exit_code) == (b"interrupted\n", 5)
    finally:
        os.close(master)
        os.close(slave)


def test_without_tty_there_is_no_controlling_terminal_and_with_none_it_fails() -> None:
    assert b"No such device" in run_inside("sh", "-c", ": < /dev/tty").stderr
    assert run_inside("true", tty=True).failure.step == Step.TERMINAL


def test_the_workload_can_gain_no_privileges_and_starts_with_default_signals() -> None:
    status = run_inside("grep", "-E", "NoNewPrivs|SigIgn|SigBlk", "/proc/self/status").stdout.split()
    assert status == [b"SigBlk:", b"0" * 16, b"SigIgn:", b"0" * 16, b"NoNewPrivs:", b"1"]


def test_also_the_signals_that_a_c_library_keeps_for_itself_are_default_ones() -> None:
    """LXC starts process 1 with every signal ignored."""
    ignoring = (
        "import ctypes, os, sys\n"
        "for number in range(1, 65):\n"
        "    ctypes.CDLL(None).syscall(13, number, (ctypes.c_ulong * 4)(1), None, 8)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    wrapper = (*AS_PROCESS_1, "/usr/bin/python3", "-c", ignoring)
    with start_inside(inside_spec("grep", "SigIgn", "/proc/self/status"), wrapper=wrapper) as launch:
        assert launch.finish().stdout.split()[1:] == [b"0" * 16]


def test_it_refuses_to_be_anything_but_process_1() -> None:
    with start_inside(inside_spec("true"), wrapper=()) as launch:
        run = launch.finish()
    assert (run.failure.step, run.exit_code) == (Step.NOT_INIT, 125)


def test_a_closed_standard_stream_is_refused_as_something_else_would_take_its_place() -> None:
    wrapper = (*AS_PROCESS_1, "sh", "-c", 'exec "$@" <&-', "sh")
    with start_inside(inside_spec("true"), wrapper=wrapper) as launch:
        run = launch.finish()
    assert (run.failure.step, run.failure.index) == (Step.DESCRIPTORS, 0)
