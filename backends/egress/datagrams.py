"""Read a UDP socket, as fast as it fills and without keeping anybody else from their turn."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

__all__ = ["Datagrams"]

_LONGEST = 65_536
_PER_TURN = 64


class Datagrams:
    """Calls `handle(data, sender)` for each datagram, in the loop, until `close`, which closes the socket."""

    def __init__(self, sock: socket.socket, handle: Callable[[bytes, Any], None]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._read)

    def send(self, data: bytes, receiver: Any = None) -> None:
        """Send what can be sent at once; a datagram may be lost anywhere. None: the socket is connected."""
        with contextlib.suppress(OSError):
            if receiver is None:
                self._socket.send(data)
            else:
                self._socket.sendto(data, receiver)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        for _ in range(_PER_TURN):
            try:
                data, sender = self._socket.recvfrom(_LONGEST)
            except OSError:  # nothing there, or word from an earlier one that it did not arrive (udp(7))
                return
            self._handle(data, sender)
