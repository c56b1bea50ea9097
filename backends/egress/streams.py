"""A connected socket as the negotiating parts use it: awaited, with what was read too far put back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from backends.egress.bounds import LINGER_S

__all__ = ["Stream", "connected", "until_readable"]

_PORTION = 64 * 1024
_LINGER_READS = 64


async def until_readable(fd: int) -> None:
    """Wait until reading from `fd` would not block. Nobody else may be waiting for the same."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def connected(sock: socket.socket, address: str, port: int, timeout_s: float) -> socket.socket:
    """`sock` itself, connected to an address literal; it is closed where that fails, with an OSError."""
    try:
        _prepare(sock)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


class Stream:
    """One end of a TCP connection. `sent` and `received` count bytes."""

    def __init__(self, sock: socket.socket) -> None:
        _prepare(sock)
        self.socket = sock
        self.sent = self.received = 0
        self._loop = asyncio.get_running_loop()
        self._ahead = b""

    async def receive(self, limit: int = _PORTION) -> bytes:
        """Up to `limit` bytes, at least one; none: nothing more will come."""
        if self._ahead:
            data, self._ahead = self._ahead[:limit], self._ahead[limit:]
            return data
        data = await self._loop.sock_recv(self.socket, limit)
        self.received += len(data)
        return data

    async def exactly(self, size: int) -> bytes:
        """`size` bytes; fewer: nothing more will come."""
        data = b""
        while len(data) < size and (portion := await self.receive(size - len(data))):
            data += portion
        return data

    def unread(self, data: bytes) -> None:
        """Put `data` back in front of what comes."""
        self._ahead = data + self._ahead

    def taken_ahead(self) -> bytes:
        """What was read from the socket and put back; it is the caller's now."""
        data, self._ahead = self._ahead, b""
        return data

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.socket, data)
        self.sent += len(data)

    async def departed(self) -> bool:
        """Wait for the next thing to come: whether it is the end. Nothing is taken."""
        if self._ahead:
            return False
        await until_readable(self.socket.fileno())
        return self.is_over()

    def is_over(self) -> bool:
        """Whether the peer has ended, or broken, the connection by now."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def is_quiet(self) -> bool:
        """Whether nothing has come and nothing has ended: what a connection must be to be used again."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return not self._ahead
        except OSError:
            return False
        return False

    async def linger(self) -> None:
        """Say that nothing more comes, and wait a moment for the peer to stop as well.

        A socket that is closed with bytes unread resets the connection, and our last words with it.
        """
        with contextlib.suppress(OSError, TimeoutError):
            self.socket.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LINGER_S):
                for _ in range(_LINGER_READS):
                    if not await self._loop.sock_recv(self.socket, _PORTION):
                        return

    def close(self) -> None:
        self.socket.close()

    def abort(self) -> None:
        """Reset the connection: what has been sent is not all, and must not look like it."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def _prepare(sock: socket.socket) -> None:
    """Nothing waits in here, and nothing waits in the kernel to become more (tcp(7))."""
    sock.setblocking(False)
    if sock.family != socket.AF_UNIX and sock.type == socket.SOCK_STREAM:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
