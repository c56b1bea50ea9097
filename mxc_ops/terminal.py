"""Runs with a tty: a pseudo-terminal for the workload, and the caller's own terminal in raw mode meanwhile.

The workload never holds a descriptor of the caller's terminal, so it cannot push input into it (TIOCSTI).
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import struct
import termios
import threading
import tty
from types import FrameType
from typing import Any

from backends.base import SandboxRequest, StdinMode, Streams
from mxc_ops.channels import Capture, Channel, Feeder, Keys, Reader, Relay, close_once
from mxc_ops.ends import Ends, Wiring, descriptor, open_input

_END_OF_FILE = b"\x04"  # the VEOF character of a fresh terminal
_DEFAULT_SIZE = (24, 80)


class Terminal:
    """The caller's side of a run with a tty. Entered: raw mode and window size follow; left: all restored.

    Parameters
    ----------
    master: the pseudo-terminal's master side; owned.
    own: the caller's terminal, when its standard input is one.
    """

    def __init__(self, master: int, own: int | None) -> None:
        self._master = master
        self._own = own
        self._saved_mode: list[Any] | None = None
        self._saved_handler: Any = None
        self._follows_size = False

    def __enter__(self) -> Terminal:
        if self._own is not None:
            self._saved_mode = termios.tcgetattr(self._own)
            tty.setraw(self._own, termios.TCSADRAIN)
            # Python runs signal handlers in the main thread only, and lets no other thread set one.
            if threading.current_thread() is threading.main_thread():
                self._saved_handler = signal.signal(signal.SIGWINCH, self._on_resize)
                self._follows_size = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._follows_size:
            signal.signal(signal.SIGWINCH, self._saved_handler or signal.SIG_DFL)
            self._follows_size = False
        if self._own is not None and self._saved_mode is not None:
            termios.tcsetattr(self._own, termios.TCSADRAIN, self._saved_mode)
            self._saved_mode = None

    def resize(self, rows: int, columns: int) -> None:
        """Tell the workload a new window size, in characters."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        self._master = close_once(self._master)

    def _on_resize(self, _number: int, _frame: FrameType | None) -> None:
        if self._own is not None and self._master >= 0:
            self.resize(*_window_size(self._own))


def connect_terminal(request: SandboxRequest, ends: Ends, content: bytes | None) -> Wiring:
    """A fresh pseudo-terminal as the workload's 0, 1 and 2; `content` is typed into it, if given."""
    master, slave = os.openpty()
    captures = (Capture(ends.max_output_bytes), Capture(0))
    given = descriptor(ends.stdin, "stdin") if ends.stdin is not None else None
    reads_own = given is not None and request.stdin.mode is StdinMode.INHERIT and os.isatty(given)
    terminal = Terminal(master, given if reads_own else None)
    wiring = Wiring(Streams(slave, slave, slave, tty=True), [], captures, [slave], terminal)
    try:
        terminal.resize(*_window_size(given if reads_own else None))
        wiring.channels.append(_output(master, ends, captures[0]))
        wiring.channels.append(_input(master, request, ends, content))
    except BaseException:
        wiring.close()
        raise
    return wiring


def _output(master: int, ends: Ends, capture: Capture) -> Channel:
    source = os.dup(master)
    if ends.stdout is None:
        return Reader(source, ends.on_stdout or capture)
    os.set_blocking(source, False)
    return Relay(source, _nonblocking_twin(descriptor(ends.stdout, "stdout"), os.O_WRONLY))


def _input(master: int, request: SandboxRequest, ends: Ends, content: bytes | None) -> Channel:
    target = os.dup(master)
    if content is not None:
        at_line_start = not content or content.endswith(b"\n")
        return Feeder(target, content + (_END_OF_FILE if at_line_start else _END_OF_FILE * 2))
    os.set_blocking(target, False)
    given = open_input(request, ends)
    try:
        return Keys(_nonblocking_twin(given, os.O_RDONLY), target, at_end=_END_OF_FILE)
    finally:
        os.close(given)


def _nonblocking_twin(fd: int, mode: int) -> int:
    """A descriptor for the same terminal or pipe that does not block, while the caller's still does.

    O_NONBLOCK belongs to the open file description, which the caller shares with its shell; opening the
    object again makes one of our own. Where that is not permitted, or pointless (files), a duplicate serves.
    """
    kind = os.fstat(fd).st_mode
    if stat.S_ISCHR(kind) or stat.S_ISFIFO(kind):
        try:
            flags = mode | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:
            return os.dup(fd)
    return os.dup(fd)


def _window_size(fd: int | None) -> tuple[int, int]:
    if fd is None:
        return _DEFAULT_SIZE
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return _DEFAULT_SIZE
    return (size.lines, size.columns) if size.lines and size.columns else _DEFAULT_SIZE
