"""The streams that a copied machine's agent still has open: nobody here asked for them, and they go on.

A copy of a machine is in the middle of its original's conversation. What programs write that were started
there is taken, and thrown away, so that they never wait for anybody; what they read is at its end. Those that
were kept wait, with all that they say, for whoever takes them over.
"""

from __future__ import annotations

import socket

from backends.agent.connection import FRAME_S, GuestConnection
from backends.agent.decoder import ProtocolBreach
from backends.agent.link import Link
from backends.agent.process import GuestProcess, Standing
from backends.agent.pumps import Sink
from backends.frozen import frozen
from backends.inside import agent_codec as codec
from backends.inside.agent_protocol import WINDOW, Kind, Welcome

__all__ = ["Conversation", "conversation_of", "inherit", "take_over"]

_LAST = (Kind.ENDED, Kind.FAILED, Kind.DONE, Kind.REPORTED, Kind.PONG)


@frozen
class Conversation:
    """How far it has come: the number of the next request, those that are not answered to their end.

    `kept` are programs whose streams somebody takes over.
    """

    next_stream: int
    open_streams: tuple[int, ...]
    welcome: Welcome
    kept: tuple[Standing, ...] = ()


def conversation_of(connection: GuestConnection, kept: tuple[GuestProcess, ...] = ()) -> Conversation:
    """Only where nothing is on its way, in either direction."""
    next_stream, open_streams = connection.link.numbers()
    standing = tuple(process.standing for process in kept)
    return Conversation(next_stream, open_streams, connection.welcome, standing)


def inherit(sock: socket.socket, conversation: Conversation) -> GuestConnection:
    """Go on with it, with the agent of a copy, behind a connected socket, which is the connection's now."""
    link = Link(sock, FRAME_S)
    kept = {standing.stream for standing in conversation.kept}
    streams = {
        number: _Kept() if number in kept else _Orphan(link, number) for number in conversation.open_streams
    }
    link.go_on(conversation.next_stream, streams)
    for number in conversation.open_streams:
        if number not in kept:
            link.send(Kind.INPUT_END, number)
    return GuestConnection(link, conversation.welcome)


def take_over(
    connection: GuestConnection, standing: Standing, *, stdin: int, stdout: int | Sink, stderr: int | Sink
) -> GuestProcess:
    """A program that was kept, as `GuestConnection.execute` had answered it; once only.

    What it has said since comes first. Raises `GuestLost`.
    """
    link = connection.link
    link.check()
    process = connection.going_on(standing, stdin, stdout, stderr)
    waited = link.replace(standing.stream, process)
    assert isinstance(waited, _Kept)  # it was kept, and nobody has taken it over yet
    for kind, flags, payload in waited.frames:
        link.hand_out(kind, flags, standing.stream, memoryview(payload))
    return process


class _Orphan:
    """A `backends.agent.link.Stream`."""

    def __init__(self, link: Link, number: int) -> None:
        self._link = link
        self._number = number

    def frame(self, kind: Kind, flags: int, payload: memoryview) -> bool:
        if kind is Kind.OUTPUT:
            self._link.send(Kind.CREDIT, self._number, codec.number(len(payload)), flags)
        return kind in _LAST

    def lost(self, _error: object) -> None:
        return


class _Kept:
    """A `backends.agent.link.Stream` that waits to be taken over: all of its frames are kept."""

    def __init__(self) -> None:
        self.frames: list[tuple[Kind, int, bytes]] = []
        self._left = 2 * WINDOW

    def frame(self, kind: Kind, flags: int, payload: memoryview) -> bool:
        self._left -= len(payload) + 1
        if self._left < 0:
            raise ProtocolBreach("it sent more than a program may that nobody listens to yet")
        self.frames.append((kind, flags, bytes(payload)))
        return False

    def lost(self, _error: object) -> None:
        return
