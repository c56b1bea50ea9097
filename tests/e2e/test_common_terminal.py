"""Runs with a terminal, the same in every containment: echo, window, keys that are signals, the end."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mxc_ops import Outcome, Sandbox, run
from tests.e2e.containments import Containment

FACTS = """
for fd in 0 1 2; do test -t $fd && echo terminal $fd; done
stty size; tty
echo err >&2; echo named >/dev/tty
"""


@dataclass(frozen=True)
class Window:
    """A terminal as a person has it: `master` is the window, `slave` what a program of theirs gets."""

    master: int
    slave: int


@pytest.fixture
def window() -> Iterator[Window]:
    master, slave = pty.openpty()
    yield Window(master, slave)
    os.close(master)
    os.close(slave)


def test_all_three_streams_are_one_terminal(contained: Containment) -> None:
    result = run(contained.policy(tty=True), FACTS)
    lines = result.stdout.decode().split("\r\n")
    assert lines[:4] == ["terminal 0", "terminal 1", "terminal 2", "24 80"]
    assert lines[4].startswith("/dev/")
    assert lines[5:] == ["err", "named", ""]
    assert result.stderr == b""
    assert run(contained.policy(), "test -t 0 || test -t 1 || test -t 2").exit_code == 1


def test_what_is_typed_is_echoed_once(contained: Containment) -> None:
    with Sandbox(contained.policy(tty=True)).spawn("echo up; read a; echo got $a") as process:
        assert process.stdout.readline() == b"up\r\n"
        process.stdin.write(b"wax\x7fit\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"wax\b \bit\r\n"
        assert process.stdout.readline() == b"got wait\r\n"
        assert process.stdout.read() == b""
        assert process.wait().ok


def test_input_is_typed_and_ended(contained: Containment) -> None:
    result = run(
        contained.policy(tty=True, timeout_s=100), "stty -echo; read a; echo got $a; cat", input=b"one\ntwo"
    )
    assert result.outcome is Outcome.EXITED
    assert b"got one\r\n" in result.stdout and result.stdout.endswith(b"two")


@pytest.mark.parametrize(("key", "name"), [(b"\x03", "INT"), (b"\x1c", "QUIT")])
def test_keys_are_signals(contained: Containment, key: bytes, name: str) -> None:
    line = f"trap 'echo caught; exit 5' {name}; echo up; while :; do sleep 0.05; done"
    with Sandbox(contained.policy(tty=True)).spawn(line) as process:
        assert process.stdout.readline() == b"up\r\n"
        process.stdin.write(key)
        process.stdin.flush()
        assert process.stdout.read().endswith(b"caught\r\n")
        assert process.wait().exit_code == 5


def test_a_key_ends_who_does_not_expect_it(contained: Containment) -> None:
    with Sandbox(contained.policy(tty=True)).spawn("echo up; exec cat") as process:
        assert process.stdout.readline() == b"up\r\n"
        process.stdin.write(b"\x03")
        process.stdin.flush()
        result = process.wait()
    assert (result.outcome, result.signal) == (Outcome.SIGNALLED, signal.SIGINT)


def test_a_window_can_be_resized(contained: Containment) -> None:
    line = "trap 'stty size; exit 6' WINCH; echo up; while :; do sleep 0.05; done"
    with Sandbox(contained.policy(tty=True)).spawn(line) as process:
        assert process.stdout.readline() == b"up\r\n"
        process.resize(50, 132)
        assert process.stdout.read() == b"50 132\r\n"
        assert process.wait().exit_code == 6


def test_the_terminal_of_the_caller(contained: Containment, window: Window) -> None:
    """Raw for the time of the run, as it was afterwards; its size is told at first and at every change."""
    fcntl.ioctl(window.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    before = termios.tcgetattr(window.slave)
    seen: list[bytes] = []
    during: list[int] = []

    def look(chunk: bytes) -> None:
        seen.append(chunk)
        if b"up" in chunk:
            during.append(termios.tcgetattr(window.slave)[3] & (termios.ICANON | termios.ECHO))
            fcntl.ioctl(window.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 111, 0, 0))
            signal.raise_signal(signal.SIGWINCH)

    handler = signal.getsignal(signal.SIGWINCH)
    line = "trap 'stty size; exit' WINCH; stty size; echo up; while :; do sleep 0.05; done"
    result = run(contained.policy(tty=True, timeout_s=100), line, stdin=window.slave, on_stdout=look)
    assert result.outcome is Outcome.EXITED
    assert b"".join(seen) == b"33 99\r\nup\r\n44 111\r\n"
    assert during == [0]
    assert termios.tcgetattr(window.slave) == before
    assert signal.getsignal(signal.SIGWINCH) == handler


def test_much_output_is_whole(contained: Containment, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        result = run(contained.policy(tty=True), "seq 50000", stdout=out)
    assert result.stdout == b""
    assert (tmp_path / "out").read_bytes() == b"".join(b"%d\r\n" % number for number in range(1, 50_001))


def test_a_session_of_its_own_with_the_terminal(contained: Containment) -> None:
    result = run(contained.policy(tty=True), ["sh", "-c", "cut -d' ' -f5-8 /proc/self/stat; echo $$"])
    (group, session, terminal, foreground), (leader,) = (
        line.split() for line in result.stdout.decode().splitlines()
    )
    assert group == session == foreground == leader
    assert int(terminal) != 0
