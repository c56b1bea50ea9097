"""`Sandbox.spawn`: talk to a running command; and runs with a tty."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from mxc_ops import ConfigError, Outcome, Policy, Sandbox, Stdin, StdinMode, arun, run

pytestmark = pytest.mark.backend("bubblewrap")

SANDBOX = Sandbox(Policy())


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_dialogue_over_the_pipes():
    with SANDBOX.spawn("while read line; do echo got $line; done; echo bye >&2; exit 4") as process:
        for word in (b"one", b"two"):
            process.stdin.write(word + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"got " + word + b"\n"
        process.stdin.close()
        result = process.wait()
    assert (result.exit_code, result.stdout, result.stderr) == (4, b"", b"bye\n")


def test_wait_collects_what_nobody_read_up_to_the_cap():
    with SANDBOX.spawn("head -c 3000000 /dev/zero", max_output_bytes=1000) as process:
        result = process.wait()
    assert (len(result.stdout), result.stdout_dropped_bytes) == (1000, 2_999_000)
    assert process.wait() is result


def test_chunks_arrive_with_their_streams_name_while_the_command_runs():
    with SANDBOX.spawn("echo a; sleep 0.1; echo b >&2; sleep 0.1; echo c") as process:
        chunks = list(process.chunks())
    assert chunks == [("stdout", b"a\n"), ("stderr", b"b\n"), ("stdout", b"c\n")]


def test_poll_answers_without_waiting():
    with SANDBOX.spawn("read line") as process:
        assert process.poll() is None
        assert process.poll(0.05) is None
        process.stdin.close()
        ended = process.poll(30)
    assert ended is not None and ended.exit_code == 1


def test_a_signal_reaches_the_workload():
    with SANDBOX.spawn("trap 'echo caught; exit 5' USR1; echo up; while :; do sleep 0.05; done") as process:
        assert process.stdout.readline() == b"up\n"
        process.signal(signal.SIGUSR1)
        assert process.stdout.readline() == b"caught\n"
        assert process.wait().exit_code == 5


def test_kill_ends_everything():
    with SANDBOX.spawn("echo up; sleep 60") as process:
        process.stdout.readline()
        process.kill()
        assert process.wait().outcome is Outcome.KILLED


def test_leaving_the_block_leaves_nothing_running():
    with SANDBOX.spawn("sleep 60") as process:
        pid = process.pid
        assert alive(pid)
    assert not alive(pid)


def test_dropping_the_process_ends_it():
    process = SANDBOX.spawn("sleep 60")
    pid = process.pid
    del process
    assert not alive(pid)


def test_the_timeout_holds_although_nobody_waits():
    sandbox = Sandbox(Policy(timeout_s=0.3))
    with sandbox.spawn("sleep 60") as process:
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        result = process.wait()
    assert (result.outcome, result.exit_code, result.limits_hit) == (Outcome.TIMED_OUT, 124, ("timeoutMs",))


def test_many_timeouts_are_kept_apart():
    running = {n: Sandbox(Policy(timeout_s=0.3 * n)).spawn("sleep 60") for n in (4, 1, 3, 2)}
    ended: list[int] = []
    while running:
        for n in [n for n, process in running.items() if process.poll(0.02)]:
            assert running.pop(n).wait().timed_out
            ended.append(n)
    assert ended == [1, 2, 3, 4]


def test_descriptors_can_be_handed_over_instead_of_pipes(tmp_path: Path):
    with (tmp_path / "out").open("wb") as out, SANDBOX.spawn("echo out; echo err >&2", stdout=out) as process:
        assert process.wait().stderr == b"err\n"
        with pytest.raises(ConfigError, match="stdout is not a pipe"):
            process.stdout.read()
    assert (tmp_path / "out").read_bytes() == b"out\n"


def test_a_text_of_any_size_is_standard_input_without_anybody_feeding_it():
    sandbox = Sandbox(Policy(stdin=Stdin(StdinMode.TEXT, "ab" * 500_000)))
    with sandbox.spawn("sleep 0.1; wc -c") as process:
        assert process.wait().stdout.strip() == b"1000000"


def test_a_workload_with_a_tty_sees_one_and_its_output_is_merged():
    result = run(
        Policy(tty=True), "test -t 0 && test -t 1 && test -t 2 && echo terminal; echo err >&2; stty size"
    )
    assert result.stdout == b"terminal\r\nerr\r\n24 80\r\n"
    assert result.stderr == b""


def test_input_is_typed_into_the_tty_and_ended_with_end_of_file():
    result = run(Policy(tty=True, timeout_s=30), "stty -echo; read a; echo got $a; cat", input=b"one\ntwo")
    assert result.outcome is Outcome.EXITED
    assert b"got one\r\n" in result.stdout and result.stdout.endswith(b"two")


def test_a_spawned_tty_can_be_typed_to_and_resized():
    with Sandbox(Policy(tty=True)).spawn("stty -echo; echo up; read a; stty size; exit 6") as process:
        assert process.stdout.readline() == b"up\r\n"
        process.resize(50, 132)
        process.stdin.write(b"go\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"50 132\r\n"
        assert process.stdout.read() == b""
        assert process.wait().exit_code == 6


def test_our_own_terminal_is_raw_during_the_run_and_restored_after_it():
    import pty
    import termios

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    during: list[object] = []

    def look(_: bytes) -> None:
        during.append(termios.tcgetattr(slave)[3] & termios.ICANON)
        os.write(master, b"typed\r")

    result = run(Policy(tty=True, timeout_s=30), "echo up; read a; echo [$a]", stdin=slave, on_stdout=look)
    after = termios.tcgetattr(slave)
    os.close(master)
    os.close(slave)
    assert result.exit_code == 0
    assert during[0] == 0
    assert after == before


def test_a_change_of_our_window_reaches_the_workload():
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    seen: list[bytes] = []

    def resize(chunk: bytes) -> None:
        seen.append(chunk)
        if chunk == b"up\r\n":
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
            signal.raise_signal(signal.SIGWINCH)

    handler = signal.getsignal(signal.SIGWINCH)
    line = "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.05; done"
    result = run(Policy(tty=True, timeout_s=30), line, stdin=slave, on_stdout=resize)
    os.close(master)
    os.close(slave)
    assert result.outcome is Outcome.EXITED
    assert b"".join(seen).endswith(b"33 99\r\n")
    assert signal.getsignal(signal.SIGWINCH) == handler


def test_a_file_may_be_typed_into_a_tty_on_a_loop(tmp_path: Path):
    (tmp_path / "lines").write_text("one\ntwo\n")
    with (tmp_path / "lines").open("rb") as lines:
        result = asyncio.run(arun(Policy(tty=True, timeout_s=30), "stty -echo; cat", stdin=lines))
    assert result.stdout.endswith(b"one\r\ntwo\r\n")


def test_the_ttys_output_may_go_to_our_terminal(tmp_path: Path):
    with (tmp_path / "out").open("wb") as out:
        result = run(Policy(tty=True), "head -c 200000 /dev/zero | tr '\\0' x", stdout=out)
    assert result.stdout == b""
    assert (tmp_path / "out").read_bytes() == b"x" * 200_000


def test_a_far_timeout_keeps_nothing_of_a_sandbox_that_is_gone():
    sandbox = Sandbox(Policy(timeout_s=3600))

    def spawn_and_wait() -> None:
        with sandbox.spawn("true") as process:
            assert process.wait().ok

    spawn_and_wait()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        spawn_and_wait()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
