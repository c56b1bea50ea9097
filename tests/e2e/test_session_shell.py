"""`mxc-ops session shell`, on a terminal as a person has it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mxc_ops import Policy, Session
from tests.images import image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers are started by root alone")
DEADLINE_S = 60
KINDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc", "vm")]
OPS = str(Path(sys.executable).with_name("mxc-ops"))


@pytest.fixture(scope="module", params=KINDS)
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    if request.param != "bubblewrap":
        image("base")
    with Session.open(Policy(containment=request.param)) as opened:
        yield opened


class Window:
    """A terminal with a shell of the sandbox's in it."""

    def __init__(self, identifier: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(31, 101)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [OPS, "session", "shell", identifier],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={"PATH": os.environ["PATH"], "TERM": "vt100"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.until(b"$ ")

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, wanted: bytes) -> bytes:
        """What was shown up to and with this; the rest is for the next one."""
        deadline = time.monotonic() + DEADLINE_S
        while wanted not in self.seen:
            assert select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0], self.seen
            self.seen += os.read(self.master, 65536)
        shown, _, self.seen = self.seen.partition(wanted)
        return shown + wanted

    def ended(self) -> int:
        """Its exit code; the terminal is again what it was."""
        code = self.process.wait(DEADLINE_S)
        assert termios.tcgetattr(self.slave) == self.before
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def window(session: Session) -> Iterator[Window]:
    opened = Window(session.id)
    yield opened
    opened.close()


def test_a_login_shell_with_our_window_and_its_exit_code(window: Window) -> None:
    window.type("echo $0 $TERM $SHELL $HOME; stty size; tty; test -t 2 && echo all\n")
    shown = window.until(b"\nall\r\n").decode().split("\r\n")
    assert shown[1:3] == ["/bin/sh vt100 /bin/sh /tmp", "31 101"]
    assert shown[3].startswith("/dev/pts/")
    assert termios.tcgetattr(window.slave) != window.before, "keys are for the sandbox meanwhile"
    window.until(b"$ ")
    window.resize(50, 132)
    window.type("until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; echo re''sized\n")
    window.until(b"\nresized\r\n")
    window.type("exit 7\n")
    assert window.ended() == 7


def test_keys_are_signals_of_the_sandbox_alone(window: Window) -> None:
    window.type("sleep 300\n")
    window.until(b"sleep 300\r\n")
    time.sleep(0.3)
    window.type("\x03")
    window.until(b"$ ")
    window.type("echo st''ill; false\n")
    window.until(b"\nstill\r\n")
    window.type("\x04")
    assert window.ended() == 1, "at the end of the input it ends as its last command did"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_is_ended_leaves_the_terminal_as_it_was_and_no_shell(
    session: Session, window: Window, number: signal.Signals
) -> None:
    window.type("echo sh''ell $$\n")
    pid = int(window.until(b"\r\n$ ").partition(b"shell ")[2].split()[0])
    window.process.send_signal(number)
    assert window.ended() == 128 + number
    deadline = time.monotonic() + DEADLINE_S
    while session.exec(["test", "-d", f"/proc/{pid}"]).exit_code == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.backend("bubblewrap")
def test_the_end_of_the_sandbox_is_told_on_a_terminal_that_is_whole() -> None:
    with Session.open(Policy(containment="bubblewrap")) as session:
        window = Window(session.id)
        session.stop()
        with suppress(OSError):
            window.until(b"mxc-ops")
        assert window.ended() == 125
        window.close()


def test_without_a_terminal_it_reads_a_script(session: Session) -> None:
    done = subprocess.run(
        [OPS, "session", "shell", session.id],
        input=b"echo out; echo err >&2; test -t 0 || exit 3\n",
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
