"""The last words of a guest's console, in bounded memory, and of whatever else writes without being asked."""

from __future__ import annotations

import asyncio
from socket import socket

__all__ = ["KEPT_BYTES", "Console"]

KEPT_BYTES = 65536
_READ_BYTES = 65536
_WANTED_LINES = 12
_PANIC = "Kernel panic"


class Console:
    """Reads a socket on the running loop as fast as it is written to, and keeps the last 64 KiB."""

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self._kept = bytearray()
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._read)

    def text(self) -> str:
        """What was kept, with control characters escaped."""
        decoded = bytes(self._kept).decode("utf-8", "replace").replace("\r\n", "\n")
        return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in decoded)

    def last_lines(self) -> str:
        """The end of it, for an error message, on one line; a panic's reason stands before its registers."""
        lines = [line for line in self.text().splitlines() if line.strip()]
        last = lines[-_WANTED_LINES:]
        reasons = [line for line in lines[:-_WANTED_LINES] if _PANIC in line]
        return " | ".join([*reasons[-1:], *last])

    def close(self) -> None:
        """Read what is left and let go of the socket."""
        if self._sock.fileno() >= 0:
            self._read()
            self._loop.remove_reader(self._sock)
            self._sock.close()

    def _read(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._sock)
            return
        self._kept += data
        del self._kept[:-KEPT_BYTES]
