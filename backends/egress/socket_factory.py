"""Sockets that live in the sandbox's network, from who can make them there."""

from __future__ import annotations

import array
import asyncio
import errno
import os
import socket
import struct

from backends.egress.bounds import CONNECT_S
from backends.egress.streams import until_readable

__all__ = ["SocketFactory"]

_REQUEST = struct.Struct("<II")
_ANSWER = struct.Struct("<i")


class SocketFactory:
    """Asks over `link`, a SOCK_SEQPACKET socket: family and type; the answer is an errno, and the socket."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self._link = link
        self._turn = asyncio.Lock()
        self._asking: asyncio.Task[socket.socket] | None = None

    async def make(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """An unconnected, non-blocking socket. Raises OSError (TimeoutError included)."""
        async with asyncio.timeout(CONNECT_S):
            await self._turn.acquire()
            asking = self._asking = asyncio.get_running_loop().create_task(self._ask(family, kind))
            asking.add_done_callback(lambda _: self._turn.release())
            try:
                return await asyncio.shield(asking)
            except BaseException:
                # The answer still comes, and must not be taken for the next one's: the turn lasts until then.
                asking.add_done_callback(_close_result)
                raise

    async def _ask(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        await asyncio.get_running_loop().sock_sendall(self._link, _REQUEST.pack(family, kind))
        await until_readable(self._link.fileno())
        data, fds = _receive(self._link)
        if len(data) == _ANSWER.size and len(fds) == 1 and _ANSWER.unpack(data)[0] == 0:
            sock = socket.socket(fileno=fds[0])
            sock.setblocking(False)
            return sock
        for fd in fds:
            os.close(fd)
        code = _ANSWER.unpack(data)[0] if len(data) == _ANSWER.size else 0
        raise OSError(code or errno.EPROTO, "no socket was made in the sandbox")


def _receive(link: socket.socket) -> tuple[bytes, list[int]]:
    found = array.array("i")
    data, ancillary, _, _ = link.recvmsg(64, socket.CMSG_SPACE(4 * found.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return data, found.tolist()


def _close_result(asked: asyncio.Task[socket.socket]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        asked.result().close()
