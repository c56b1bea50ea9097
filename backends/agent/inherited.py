"""The streams that a copied machine's agent still has open: nobody here asked for them, and they go on.

A copy of a machine is in the middle of its original's conversation. What programs write that were started
there is taken, and thrown away, so that they never wait for anybody; what they read is at its end.
"""

from __future__ import annotations

import socket

from backends.agent.connection import FRAME_S, GuestConnection
from backends.agent.link import Link
from backends.frozen import frozen
from backends.inside import agent_codec as codec
from backends.inside.agent_protocol import Kind, Welcome

__all__ = ["Conversation", "conversation_of", "inherit"]

_LAST = (Kind.ENDED, Kind.FAILED, Kind.DONE, Kind.REPORTED, Kind.PONG)


@frozen
class Conversation:
    """How far it has come: the number of the next request, those that are not answered to their end."""

    next_stream: int
    open_streams: tuple[int, ...]
    welcome: Welcome


def conversation_of(connection: GuestConnection) -> Conversation:
    """Only where nothing is on its way, in either direction."""
    next_stream, open_streams = connection.link.numbers()
    return Conversation(next_stream, open_streams, connection.welcome)


def inherit(sock: socket.socket, conversation: Conversation) -> GuestConnection:
    """Go on with it, with the agent of a copy, behind a connected socket, which is the connection's now."""
    link = Link(sock, FRAME_S)
    orphans = {number: _Orphan(link, number) for number in conversation.open_streams}
    link.go_on(conversation.next_stream, orphans)
    for number in conversation.open_streams:
        link.send(Kind.INPUT_END, number)
    return GuestConnection(link, conversation.welcome)


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
