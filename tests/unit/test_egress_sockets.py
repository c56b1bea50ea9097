"""Asking for sockets that are made in the sandbox: what the other side may do, and what it may not cause."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from backends.egress.socket_factory import SocketFactory

INET, INET6, STREAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def answer(server: socket.socket, data: bytes, sockets: Sequence[socket.socket] = ()) -> None:
    fds = array.array("i", [sock.fileno() for sock in sockets])
    server.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if sockets else [])
    for sock in sockets:
        sock.close()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_socket_is_as_it_was_asked_for() -> None:
    async def scene() -> None:
        ours, server = pair()
        with ours, server:
            asking = asyncio.create_task(SocketFactory(ours).make(INET6, socket.SOCK_DGRAM))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert struct.unpack("<II", server.recv(64)) == (INET6, socket.SOCK_DGRAM)
            answer(server, struct.pack("<i", 0), [socket.socket(INET6, socket.SOCK_DGRAM)])
            with await asking as made:
                assert (made.family, made.type, made.getblocking()) == (INET6, socket.SOCK_DGRAM, False)
                assert not os.get_inheritable(made.fileno())

    asyncio.run(scene())


def test_who_gives_up_leaves_nothing_behind_and_the_next_gets_its_own() -> None:
    async def scene() -> None:
        ours, server = pair()
        with ours, server:
            factory = SocketFactory(ours)
            first = asyncio.create_task(factory.make(INET, STREAM))
            second = asyncio.create_task(factory.make(INET6, STREAM))
            await asyncio.sleep(0.01)
            first.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await first
            before = descriptors()
            for family in (INET, INET6):
                await asyncio.sleep(0.01)
                assert struct.unpack("<II", server.recv(64)) == (family, STREAM)
                answer(server, struct.pack("<i", 0), [socket.socket(family, STREAM)])
            with await second as made:
                assert made.family == INET6
                assert descriptors() == before + 1

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("data", "count"),
    [(b"", 0), (b"\0\0\0\0", 0), (b"\0\0\0\0", 2), (b"\0", 1), (b"\x18\0\0\0", 0), (b"\x18\0\0\0", 1)],
)
def test_an_answer_without_just_one_socket_is_an_error_and_leaks_none(data: bytes, count: int) -> None:
    async def scene() -> None:
        ours, server = pair()
        with ours, server:
            factory = SocketFactory(ours)
            before = descriptors()
            asking = asyncio.create_task(factory.make(INET, STREAM))
            await asyncio.sleep(0.01)
            if data:
                answer(server, data, [socket.socket() for _ in range(count)])
            else:
                server.shutdown(socket.SHUT_RDWR)
            with pytest.raises(OSError):
                await asking
            assert descriptors() == before

    asyncio.run(scene())
