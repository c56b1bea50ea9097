"""One connection to a guest's agent: what can be asked of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterable, Callable, Iterable
from typing import TypeVar

from backends.agent.errors import GuestLost
from backends.agent.files import Download, Upload
from backends.agent.link import Deadline, Link
from backends.agent.process import GuestProcess, Standing
from backends.agent.pumps import Sink, Source
from backends.agent.streams import Answer, empty
from backends.inside import agent_codec as codec
from backends.inside.agent_protocol import (
    Flag,
    GuestCommand,
    GuestContainer,
    GuestDone,
    GuestFiles,
    GuestHide,
    GuestIdentity,
    GuestMount,
    GuestNetwork,
    GuestReport,
    Kind,
    Welcome,
)

__all__ = ["FRAME_S", "GuestConnection", "ask_ping", "greet"]

ANSWER_S = 10.0
FRAME_S = 30.0
STALL_S = 30.0

T = TypeVar("T")


class GuestConnection:
    """Made by `open`; belongs to the event loop that ran then.

    Any number of requests may be on their way at once. Every one raises `GuestLost` when the connection ends
    (which it does on the first thing that the protocol does not allow), `GuestRefused` when the agent could
    not do it, `GuestSilent` when `deadline_s` seconds went by without an answer. A request whose caller was
    cancelled or ran out of time is answered into the void: the connection stays as good as it was. `lost`
    is done, with the error as its result, when the connection has ended.
    """

    def __init__(self, link: Link, welcome: Welcome) -> None:
        """Use `open`."""
        self.welcome = welcome
        self._link = link
        self._processes: set[GuestProcess] = set()

    @classmethod
    async def open(
        cls, sock: socket.socket, *, deadline_s: float, frame_deadline_s: float = FRAME_S
    ) -> GuestConnection:
        """Greet the agent behind a connected stream socket and wait for its answer.

        The socket is the connection's from now on, also when this fails. Whatever the agent ran for an
        earlier connection is gone. `frame_deadline_s` is how long a guest may take over a single frame; a
        machine that is stopped may have stopped in the middle of one, so let it be longer than any stop.
        """
        return cls(*await greet(sock, deadline_s, frame_deadline_s))

    @property
    def link(self) -> Link:
        """For a relay, which the connection is then left to."""
        return self._link

    @property
    def lost(self) -> asyncio.Future[GuestLost]:
        return self._link.lost

    async def ping(self, *, deadline_s: float = ANSWER_S) -> float:
        """Seconds that it took the agent to answer."""
        start = self._link.loop.time()
        await ask_ping(self._link, deadline_s=deadline_s)
        return self._link.loop.time() - start

    async def identify(self, identity: GuestIdentity, *, deadline_s: float = ANSWER_S) -> None:
        """Make it another machine than its template: random numbers, clock, names."""
        await self._do(Kind.IDENTITY, codec.identity(identity), deadline_s)

    async def bring_up(self, card: GuestNetwork, *, deadline_s: float = ANSWER_S) -> None:
        """Give the machine's card its addresses and routes."""
        await self._do(Kind.NETWORK, codec.network(card), deadline_s)

    async def mount(self, mount: GuestMount, *, deadline_s: float = ANSWER_S) -> None:
        await self._do(Kind.MOUNT, codec.mount(mount), deadline_s)

    async def hide(self, hidden: GuestHide, *, deadline_s: float = STALL_S) -> None:
        """Takes long only where the guest has further names of what is hidden."""
        await self._do(Kind.HIDE, codec.hide(hidden), deadline_s)

    async def sync(self, *, deadline_s: float = STALL_S) -> None:
        """Have everything written that was put into file systems."""
        await self._do(Kind.SYNC, b"", deadline_s)

    def signal_everything(self, number: int) -> None:
        """To every process of the guest but its agent and the zygote, whoever started it."""
        self._link.send(Kind.SIGNAL, 0, codec.number(number), Flag.EVERY)

    async def report(self, *, deadline_s: float = ANSWER_S) -> GuestReport:
        return await _ask(self._link, Kind.REPORT, b"", Kind.REPORTED, _report, deadline_s)

    async def power_off(self, *, deadline_s: float = ANSWER_S) -> None:
        """Returns when the machine has hung up, which is its only answer."""
        answer = Answer("POWER_OFF", Kind.DONE, _done)
        deadline = Deadline("POWER_OFF", deadline_s)
        await self._link.room(deadline)
        self._link.begin(answer, Kind.POWER_OFF, b"")
        try:
            await answer.wait(deadline)
        except GuestLost:
            return
        await deadline.settle(self.lost)

    async def put(
        self,
        files: GuestFiles,
        chunks: Iterable[bytes] | AsyncIterable[bytes],
        *,
        deadline_s: float = STALL_S,
    ) -> GuestDone:
        """Unpack a tar archive in the guest.

        `deadline_s` is how long the guest may take nothing; there is none for the whole. When `chunks` raises
        or the caller is cancelled, the archive ends where it is, and so much of it may have been unpacked.
        """
        return await Upload(self._link, deadline_s).send(files, chunks)

    def get(self, files: GuestFiles, *, deadline_s: float = STALL_S) -> Download:
        """A tar archive from the guest, to iterate over. `deadline_s`: as for `put`."""
        return Download(self._link, files, deadline_s)

    async def execute(
        self,
        command: GuestCommand,
        *,
        stdin: int | None,
        stdout: int | Sink,
        stderr: int | Sink,
        deadline_s: float = ANSWER_S,
    ) -> GuestProcess:
        """Start a program; `deadline_s` is for its start only.

        Parameters
        ----------
        stdin: a descriptor to read from (not with `no_input`), None for an input that is at its end. Nothing
            is read before the program has started; of what it does not take, at most one window (256 KiB) is
            lost.
        stdout, stderr: descriptors to write to, which stay the caller's, or a function that takes each piece.

        A caller who is cancelled or out of time leaves no program behind: it is killed once it has started.
        Raises also `OSError` for a descriptor that is not open, `ValueError` for a command that no frame
        holds (NUL, over 8 MiB).
        """
        message = codec.command(command)
        deadline = Deadline("EXEC", deadline_s)
        await self._link.room(deadline)
        source = None if command.no_input else Source(self._link, stdin)
        process = GuestProcess(self._link, source, stdout, stderr)
        return await self._begun(process, Kind.EXEC, message, deadline)

    async def contain(
        self, container: GuestContainer, sock: socket.socket, *, deadline_s: float = STALL_S
    ) -> GuestProcess:
        """Start a container; see `backends.agent.container`, which speaks to the agent in it.

        `sock`, one end of a socket pair, is where the connection to that agent goes on; it stays the caller's
        and is no longer needed.
        """
        message = codec.container(container)
        deadline = Deadline("CONTAINER", deadline_s)
        await self._link.room(deadline)
        return await self._begun(self._container(sock), Kind.CONTAINER, message, deadline)

    def contained(self, sock: socket.socket, stream: int, pid: int, input_left: int) -> GuestProcess:
        """A container that a copied machine has already; `sock` is as of `contain`."""
        process = self._container(sock)
        self._keep(process)
        self._link.go_on(stream + 1, {stream: process})
        process.goes_on(stream, pid, input_left)
        return process

    def _container(self, sock: socket.socket) -> GuestProcess:
        return GuestProcess(self._link, Source(self._link, sock.fileno()), sock.fileno(), _nothing)

    async def _begun(
        self, process: GuestProcess, kind: Kind, message: bytes, deadline: Deadline
    ) -> GuestProcess:
        self._keep(process)
        try:
            process.starts(self._link.begin(process, kind, message))
            await process.started(deadline)
        except BaseException:
            process.abandon()
            raise
        return process

    def _keep(self, process: GuestProcess) -> None:
        self._processes.add(process)
        process.when_flushed(lambda: self._processes.discard(process))

    def going_on(
        self, standing: Standing, stdin: int, stdout: int | Sink, stderr: int | Sink
    ) -> GuestProcess:
        """For `backends.agent.inherited`: a program that was started before this connection began."""
        process = GuestProcess(self._link, Source(self._link, stdin), stdout, stderr)
        self._keep(process)
        process.go_on(standing)
        return process

    async def close(self) -> None:
        """End the connection and drop what waits for consumers. The guest is somebody else's to end."""
        self._link.lose("it was closed from here")
        for process in list(self._processes):
            process.discard()

    async def _do(self, kind: Kind, message: bytes, deadline_s: float) -> None:
        await _ask(self._link, kind, message, Kind.DONE, _done, deadline_s)


async def greet(sock: socket.socket, deadline_s: float, frame_deadline_s: float) -> tuple[Link, Welcome]:
    """The link to an agent that has answered; see `GuestConnection.open`."""
    link = Link(sock, frame_deadline_s)
    try:
        return link, await _ask(link, Kind.HELLO, codec.hello(), Kind.WELCOME, _welcome, deadline_s)
    except BaseException:
        link.lose("it did not answer the greeting")
        raise


async def ask_ping(link: Link, *, deadline_s: float = ANSWER_S) -> None:
    """Whatever the agent sent before its answer has come when this returns."""
    await _ask(link, Kind.PING, b"", Kind.PONG, empty, deadline_s)


async def _ask(
    link: Link, kind: Kind, message: bytes, answer: Kind, read: Callable[[memoryview], T], deadline_s: float
) -> T:
    deadline = Deadline(kind.name, deadline_s)
    await link.room(deadline)
    waiting = Answer(kind.name, answer, read)
    link.begin(waiting, kind, message)
    return await waiting.wait(deadline)


def _nothing(_: memoryview) -> None:
    pass


def _welcome(payload: memoryview) -> Welcome:
    return codec.read_welcome(bytes(payload))


def _done(payload: memoryview) -> GuestDone:
    return codec.read_done(bytes(payload))


def _report(payload: memoryview) -> GuestReport:
    return codec.read_report(bytes(payload))
