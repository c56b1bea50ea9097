"""One agent for many hosts: what several clients ask for goes over one link, each with streams of its own.

A client speaks the agent's protocol, and may do what changes nothing for the others: run programs, put and
get files, ask for a report. What a client opened ends with it: its programs are killed.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable

from backends.agent.connection import FRAME_S, ask_ping, greet
from backends.agent.decoder import OF_HOSTS, FrameDecoder, ProtocolBreach
from backends.agent.errors import GuestLost, GuestRefused
from backends.agent.link import Link
from backends.inside import agent_codec as codec
from backends.inside.agent_codec import HEADER
from backends.inside.agent_protocol import (
    MAX_MESSAGE,
    MAX_PAYLOAD,
    MAX_STREAMS,
    WINDOW,
    Channel,
    Flag,
    GuestCommand,
    GuestFailed,
    Kind,
    Step,
    Welcome,
)

__all__ = ["Relay"]

_REQUESTS = (Kind.EXEC, Kind.PUT, Kind.GET, Kind.REPORT)
_LAST = (Kind.ENDED, Kind.FAILED, Kind.DONE, Kind.REPORTED)
_MOST_CREDIT = 2**31
_HUSH_S = 10.0
_MAX_BACKLOG = 2 * WINDOW * MAX_STREAMS
"""More cannot be on the way to a client that reads, however many streams it has."""


class Relay:
    """Made by `open`; `serve` each client.

    `link.lost` is done, with the reason, when the agent has gone. `when_idle` is called whenever the last of
    all streams has ended, `when_left` whenever a client has gone. Every command is under the restrictions of
    `imposed`, whatever its client says. While it is `refusing`, which says why, nothing new is begun.
    """

    def __init__(self, link: Link, welcome: Welcome) -> None:
        """Use `open`."""
        self.link = link
        self.welcome = welcome
        self.when_idle: Callable[[], object] = bool
        self.when_left: Callable[[], object] = bool
        self._held: list[Callable[[], object]] | None = None
        self._heard = 0
        self.imposed: GuestCommand | None = None
        self.refusing = ""
        self._clients: set[_Client] = set()
        self._open = 0

    @classmethod
    async def open(
        cls, sock: socket.socket, *, deadline_s: float, frame_deadline_s: float = FRAME_S
    ) -> Relay:
        """Greet the agent behind a connected stream socket, which is the relay's from now on.

        Raises `GuestLost`, `GuestSilent`.
        """
        link, welcome = await greet(sock, deadline_s, frame_deadline_s)
        return cls(link, welcome)

    @property
    def busy(self) -> bool:
        """Whether anything that a client asked for is not done yet."""
        return self._open > 0

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    def serve(self, sock: socket.socket) -> None:
        """Take a client's connected stream socket over."""
        self._clients.add(_Client(sock, self))

    def close(self) -> None:
        """Hang up on every client and on the agent."""
        for client in list(self._clients):
            client.lose()
        self.link.lose("it was closed from here")

    def restricted(self, kind: Kind, message: bytes) -> bytes:
        if kind is not Kind.EXEC or self.imposed is None:
            return message
        return codec.impose(message, self.imposed)

    async def hush(self) -> None:
        """Have nothing on its way on the link, until `speak`. What clients say meanwhile waits.

        Raises `GuestLost`, `GuestSilent`, `TimeoutError` when the agent does not come to rest: it speaks.
        """
        self._held = []
        try:
            async with asyncio.timeout(_HUSH_S):
                while True:
                    heard = self._heard
                    await ask_ping(self.link)
                    if heard == self._heard:
                        return
        except BaseException:
            self.speak()
            raise

    def speak(self) -> None:
        held, self._held = self._held or [], None
        for say in held:
            say()

    @property
    def hushed(self) -> bool:
        return self._held is not None

    def say(self, what: Callable[[], object]) -> None:
        """Do something that sends: now, or once it may be said."""
        if self._held is None:
            what()
        else:
            self._held.append(what)

    def heard(self) -> None:
        self._heard += 1

    def opened(self) -> None:
        self._open += 1

    def ended(self) -> None:
        self._open -= 1
        if not self._open:
            self.when_idle()

    def forget(self, client: _Client) -> None:
        self._clients.discard(client)
        self.when_left()


class _Forwarded:
    """One stream of a client's on the agent's link: a `backends.agent.link.Stream`."""

    def __init__(self, relay: Relay, client: _Client, kind: Kind, number: int) -> None:
        self._relay = relay
        self._client: _Client | None = client
        self._kind = kind
        self._number = number
        self._credit = WINDOW
        self._input_open = True
        self._outputs = {Channel.STDOUT: WINDOW, Channel.STDERR: WINDOW}
        self.ours = -1
        self.started = kind is not Kind.EXEC
        relay.opened()

    # From the agent

    def frame(self, kind: Kind, flags: int, payload: memoryview) -> bool:
        last = kind in _LAST
        self._relay.heard()
        if kind is Kind.STARTED:
            self.started = True
        elif kind is Kind.INPUT_CREDIT:
            self._credit += codec.read_number(bytes(payload))
        elif kind is Kind.INPUT_CLOSED:
            self._input_open = False
        elif kind is Kind.OUTPUT:
            self._count_output(flags, len(payload))
        if self._client is not None:
            if last:
                self._client.closed(self._number)
            self._client.send(kind, self._number, payload, flags)
        elif kind is Kind.STARTED:
            self._relay.say(self._give_up)
        if last:
            self._relay.ended()
        return last

    def lost(self, _error: GuestLost) -> None:
        """The agent has gone, and with it every client: the relay's owner sees it by the link."""
        self._relay.ended()

    # From the client

    def take(self, kind: Kind, flags: int, payload: memoryview) -> None:
        """Raises `ProtocolBreach`: the agent ends its link for what it has not allowed."""
        if kind is Kind.INPUT:
            self._credit -= len(payload)
            if self._credit < 0 or self._kind not in (Kind.EXEC, Kind.PUT):
                raise ProtocolBreach("it sent more INPUT than it was allowed")
            if not self._input_open:
                return
        elif kind is Kind.INPUT_END:
            self._input_open = False
        elif kind is Kind.CREDIT:
            self._outputs[Channel(flags)] += codec.read_number(bytes(payload))
            if self._outputs[Channel(flags)] > _MOST_CREDIT:
                raise ProtocolBreach("it gave more CREDIT than anybody can use")
        link, content = self._relay.link, bytes(payload)
        self._relay.say(lambda: link.send(kind, self.ours, content, flags))

    def abandon(self) -> None:
        """Its client has gone."""
        self._client = None
        if self.started:
            self._relay.say(self._give_up)

    def _give_up(self) -> None:
        link = self._relay.link
        if self._kind is Kind.EXEC:
            link.send(Kind.SIGNAL, self.ours, codec.number(signal.SIGKILL))
        if self._kind is not Kind.PUT:
            channels = (Channel.STDOUT, Channel.STDERR) if self._kind is Kind.EXEC else (Channel.STDOUT,)
            for channel in channels if self._kind is not Kind.REPORT else ():
                link.send(Kind.OUTPUT_CLOSED, self.ours, b"", channel)
        if self._input_open and self._kind in (Kind.EXEC, Kind.PUT):
            self._input_open = False
            link.send(Kind.INPUT_END, self.ours)

    def _count_output(self, flags: int, length: int) -> None:
        channel = Channel(flags)
        self._outputs[channel] -= length
        if self._outputs[channel] < 0:
            raise ProtocolBreach(f"it sent more of {channel.name} than it was allowed")


class _Client:
    """A client's connection. Whatever it does wrong ends it, and nothing else."""

    def __init__(self, sock: socket.socket, relay: Relay) -> None:
        self._sock = sock
        self._relay = relay
        self._loop = relay.link.loop
        self._decoder = FrameDecoder(OF_HOSTS)
        self._streams: dict[int, _Forwarded] = {}
        self._messages: dict[int, tuple[Kind, bytearray]] = {}
        self._backlog = bytearray()
        self._reading = False
        self._gone = False
        sock.setblocking(False)
        self._read_on()

    def send(self, kind: Kind, stream: int, payload: bytes | memoryview = b"", flags: int = 0) -> None:
        if self._gone:
            return
        if not self._backlog:
            self._loop.add_writer(self._sock.fileno(), self._writable)
        self._backlog += HEADER.pack(len(payload), kind, flags, stream)
        self._backlog += payload
        if len(self._backlog) > _MAX_BACKLOG:
            self._loop.call_soon(self.lose)

    def closed(self, number: int) -> None:
        self._streams.pop(number, None)

    def lose(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._relay.link.release(self._read_on)
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._drop_streams()
        self._relay.forget(self)

    def _drop_streams(self) -> None:
        streams, self._streams = list(self._streams.values()), {}
        self._messages.clear()
        for stream in streams:
            stream.abandon()

    def _read_on(self) -> None:
        if not self._gone and not self._reading:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        link = self._relay.link
        if link.congested or self._relay.hushed:  # others' answers must not wait for what this one sends
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())
            if self._relay.hushed:
                self._relay.say(self._read_on)
            else:
                link.hold_back(self._read_on)
            return
        try:
            count = self._sock.recv_into(self._decoder.room())
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        if not count:
            self.lose()
            return
        self._decoder.received(count)
        try:
            while not self._gone and (frame := self._decoder.next()) is not None:
                self._take(*frame)
        except (ValueError, GuestLost):
            self.lose()

    def _writable(self) -> None:
        try:
            with memoryview(self._backlog) as waiting:
                sent = self._sock.send(waiting[: 4 * MAX_PAYLOAD])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.lose()
            return
        del self._backlog[:sent]
        if not self._backlog:
            self._loop.remove_writer(self._sock.fileno())

    def _take(self, kind: Kind, flags: int, number: int, payload: memoryview) -> None:
        if kind is Kind.HELLO:
            codec.read_hello(bytes(payload))
            self._drop_streams()
            self.send(Kind.WELCOME, number, codec.welcome(self._relay.welcome))
        elif kind is Kind.PING:
            self.send(Kind.PONG, number, payload)
        elif kind in _REQUESTS:
            self._collect(kind, flags, number, payload)
        elif (stream := self._streams.get(number)) is not None:
            stream.take(kind, flags, payload)
        # What is about a stream that has ended meanwhile is passed over, as by the agent.

    def _collect(self, kind: Kind, flags: int, number: int, payload: memoryview) -> None:
        if number in self._streams:
            raise ProtocolBreach("it used a stream twice")
        began, message = self._messages.setdefault(number, (kind, bytearray()))
        message += payload
        if began is not kind or len(message) > MAX_MESSAGE or len(self._messages) > MAX_STREAMS:
            raise ProtocolBreach("it sent a message that is none")
        if flags & Flag.MORE:
            return
        del self._messages[number]
        if self._relay.refusing:
            failed = GuestFailed(Step.STREAMS, 0, self._relay.refusing)
            self.send(Kind.FAILED, number, codec.failed(failed))
            return
        stream = _Forwarded(self._relay, self, kind, number)
        try:
            stream.ours = self._relay.link.begin(stream, kind, self._relay.restricted(kind, bytes(message)))
        except GuestRefused:
            self._relay.ended()
            full = GuestFailed(Step.STREAMS, 0, f"{MAX_STREAMS} are open already")
            self.send(Kind.FAILED, number, codec.failed(full))
            return
        except BaseException:
            self._relay.ended()
            raise
        self._streams[number] = stream
