"""The streams that a copied machine's agent still has open: nobody here asked for them, and they go on.

A copy of a machine is in the middle of its original's conversation. What programs write that were started
there is taken, and thrown away, so that they never wait for anybody; what they read is at its end. With the
agents of its containers, the conversation goes on in the same way. Programs that were kept wait, with all
that they say, for whoever takes them over.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from backends.agent.connection import FRAME_S, GuestConnection
from backends.agent.container import Container
from backends.agent.decoder import ProtocolBreach
from backends.agent.link import Link
from backends.agent.process import GuestProcess, Standing
from backends.agent.pumps import Sink
from backends.frozen import frozen
from backends.inside import agent_codec as codec
from backends.inside.agent_protocol import WINDOW, Kind, Welcome

__all__ = [
    "Conversation",
    "OpenContainer",
    "come_to_rest",
    "conversation_of",
    "inherit",
    "take_over",
]

_LAST = (Kind.ENDED, Kind.FAILED, Kind.DONE, Kind.REPORTED, Kind.PONG)


@frozen
class OpenContainer:
    """A container, as a stream of its machine's agent, and how far the conversation in it has come."""

    stream: int
    pid: int
    input_left: int
    conversation: Conversation


@frozen
class Conversation:
    """How far it has come: the number of the next request, those that are not answered to their end.

    `containers` are those that go on, `kept` programs whose streams somebody takes over, in this process;
    what else is open has nobody any more.
    """

    next_stream: int
    open_streams: tuple[int, ...]
    welcome: Welcome
    containers: tuple[OpenContainer, ...] = ()
    kept: tuple[Standing, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """JSON-safe; without what is `kept`."""
        return {
            "next": self.next_stream,
            "open": list(self.open_streams),
            "welcome": {"bootUs": self.welcome.boot_us, "zygote": self.welcome.has_zygote},
            "containers": [
                {
                    "stream": each.stream,
                    "pid": each.pid,
                    "inputLeft": each.input_left,
                    "conversation": each.conversation.as_dict(),
                }
                for each in self.containers
            ],
        }

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Conversation:
        """What `as_dict` made."""
        welcome = Welcome(said["welcome"]["bootUs"], said["welcome"]["zygote"])
        containers = tuple(
            OpenContainer(each["stream"], each["pid"], each["inputLeft"], cls.of(each["conversation"]))
            for each in said["containers"]
        )
        return cls(said["next"], tuple(said["open"]), welcome, containers)


async def come_to_rest(connection: GuestConnection, containers: Sequence[Container] = ()) -> None:
    """Nothing is on the way when this returns, if no program says anything and nobody asks for anything.

    Raises `GuestLost`, `GuestSilent`.
    """
    for container in containers:
        await container.agent.ping()
    await connection.ping()


def conversation_of(
    connection: GuestConnection,
    containers: Sequence[Container] = (),
    kept: Sequence[GuestProcess] = (),
) -> Conversation:
    """Only where nothing is on its way, in either direction.

    Parameters
    ----------
    containers: those of its machine that are to go on in the copy; any other ends there.
    kept: programs that are taken over in the copy.
    """
    next_stream, open_streams = connection.link.numbers()
    going_on = tuple(
        OpenContainer(each.init.stream, each.init.pid, each.init.input_left, conversation_of(each.agent))
        for each in containers
    )
    contained = {each.stream for each in going_on}
    others = tuple(number for number in open_streams if number not in contained)
    standing = tuple(process.standing for process in kept)
    return Conversation(next_stream, others, connection.welcome, going_on, standing)


def inherit(sock: socket.socket, conversation: Conversation) -> tuple[GuestConnection, tuple[Container, ...]]:
    """Go on with it, with the agent of a copy, behind a connected socket, which is the connection's now.

    The containers are in the order of the conversation's.
    """
    link = Link(sock, FRAME_S)
    kept = {standing.stream for standing in conversation.kept}
    streams = {
        number: _Kept() if number in kept else _Orphan(link, number) for number in conversation.open_streams
    }
    link.go_on(conversation.next_stream, streams)
    for number in conversation.open_streams:
        if number not in kept:
            link.send(Kind.INPUT_END, number)
    connection = GuestConnection(link, conversation.welcome)
    return connection, tuple(_go_on_in(connection, each) for each in conversation.containers)


def _go_on_in(connection: GuestConnection, container: OpenContainer) -> Container:
    ours, theirs = socket.socketpair()
    try:
        init = connection.contained(theirs, container.stream, container.pid, container.input_left)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    agent, _ = inherit(ours, container.conversation)
    return Container(agent, init)


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
