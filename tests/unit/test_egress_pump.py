"""Carrying bytes between two sockets, by itself: the ends that a whole proxy takes too long to come to."""

from __future__ import annotations

import asyncio
import socket

from backends.egress.pump import Pump


def run(idle_s: float, first: bytes, *, spoken: bytes = b"", ends: bool = False) -> tuple[str, bytes, Pump]:
    """Pump while the client has said `spoken`, and ended or not; the reason, what arrived, and the pump."""

    async def scene() -> tuple[str, bytes, Pump]:
        client, ours = socket.socketpair()
        upstream, theirs = socket.socketpair()
        with client, ours, upstream, theirs:
            ours.setblocking(False)
            upstream.setblocking(False)
            client.sendall(spoken)
            if ends:
                client.shutdown(socket.SHUT_WR)
                theirs.shutdown(socket.SHUT_WR)
            pump = Pump(ours, upstream)
            reason = await pump.run(first, idle_s)
            theirs.setblocking(False)
            return reason, theirs.recv(65_536), pump

    return asyncio.run(scene())


def test_both_ends_done_is_the_end() -> None:
    reason, arrived, pump = run(600, b"first ", spoken=b"then", ends=True)
    assert (reason, arrived, pump.sent, pump.received) == ("", b"first then", 10, 0)


def test_a_tunnel_in_which_nothing_moves_is_over_after_a_while() -> None:
    reason, arrived, _ = run(0.05, b"first", spoken=b"")
    assert (reason, arrived) == ("idle", b"first")


def test_what_is_cancelled_leaves_both_sockets_alone() -> None:
    async def scene() -> None:
        client, ours = socket.socketpair()
        upstream, theirs = socket.socketpair()
        with client, ours, upstream, theirs:
            ours.setblocking(False)
            upstream.setblocking(False)
            task = asyncio.create_task(Pump(ours, upstream).run(b"", 600))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            client.sendall(b"x")
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(ours, 10) == b"x"
            assert not loop.remove_reader(upstream) and not loop.remove_writer(upstream)

    asyncio.run(scene())
