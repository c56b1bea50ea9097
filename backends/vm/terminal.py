"""The caller's pseudo-terminal, carried to the one that the guest makes for its command (asyncio).

The guest's terminal does all that terminals do: echo, line editing, signals from keys. Ours passes bytes.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
import tty

from backends.agent.process import GuestProcess

__all__ = ["follow_size", "make_transparent", "window_size"]

_POLL_S = 0.2
_DEFAULT_SIZE = (24, 80)


def make_transparent(terminal: int) -> None:
    """No echo, no line editing, no signals at our end."""
    tty.setraw(terminal, termios.TCSANOW)


def window_size(terminal: int) -> tuple[int, int]:
    """(rows, columns); 24 times 80 where nobody has set any."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8)))
    return (rows, columns) if rows and columns else _DEFAULT_SIZE


async def follow_size(terminal: int, process: GuestProcess) -> None:
    """Tell the guest when our terminal's size changes; until cancelled.

    The signal for it goes to the terminal's foreground process group, and a terminal that is nobody's
    controlling one has none: looking is the only way. The first look is told, too: it may have changed since
    the command was asked for. Ends with the terminal, whose other end may be closed before the command ends.
    """
    known: tuple[int, int] | None = None
    while True:
        try:
            size = window_size(terminal)
        except OSError:
            return
        if size != known:
            process.resize(*size)
            known = size
        await asyncio.sleep(_POLL_S)
