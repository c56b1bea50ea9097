"""Guests made of Python, on the other end of a socket pair: one that keeps to the protocol, one that may not.

`FakeGuest` serves requests as an agent would, its programs are coroutines. `RawGuest` says what a test tells
it to. Both read what the host sends with the codec of the product.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, ParamSpec

from backends.agent.connection import GuestConnection
from backends.inside import agent_codec as codec
from backends.inside.agent_protocol import (
    MAGIC,
    MAX_PAYLOAD,
    VERSION,
    WINDOW,
    Channel,
    Flag,
    Frame,
    Kind,
    Step,
)

P = ParamSpec("P")
WELCOME = struct.pack("<IIQI", MAGIC, VERSION, 1_200_000, 1)
PATIENCE_S = 20.0


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run a coroutine as a test, with an end."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(PATIENCE_S):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


def ended(status: int = 0, flags: int = 0) -> bytes:
    return struct.pack("<iIQQQ", status, flags, 1000, 2000, 3000)


def failed(step: int, number: int = 0, subject: bytes = b"") -> bytes:
    return struct.pack("<Ii", step, number) + subject


def done(size: int = 0, entries: int = 0) -> bytes:
    return struct.pack("<QQ", size, entries)


REPORTED = struct.pack("<QQQQII", 1 << 28, 1 << 27, 5000, 9000, 2, 7)


class RawGuest:
    """The guest's end of a connection, in a test's hands."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = await self._loop.sock_recv(self.sock, count - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    async def frame(self) -> Frame:
        """The host's next frame. Raises `EOFError` when it hung up."""
        length, kind, flags, stream = codec.HEADER.unpack(await self._exactly(codec.HEADER.size))
        assert length <= MAX_PAYLOAD, "the host keeps to the protocol"
        return Frame(Kind(kind), stream, await self._exactly(length), flags)

    async def next(self, kind: Kind) -> Frame:
        """The host's next frame of a kind; others are passed over."""
        while (frame := await self.frame()).kind is not kind:
            pass
        return frame

    async def message(self, kind: Kind) -> Frame:
        """The host's next request, put together."""
        frame = await self.next(kind)
        payload = frame.payload
        while frame.flags & Flag.MORE:
            frame = await self.frame()
            payload += frame.payload
        return Frame(kind, frame.stream, payload)

    async def send(self, kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> None:
        await self.raw(codec.HEADER.pack(len(payload), kind, flags, stream) + payload)

    async def raw(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def greet(self) -> None:
        await self.next(Kind.HELLO)
        await self.send(Kind.WELCOME, 0, WELCOME)

    async def starts(self, pid: int = 7) -> int:
        """Start whatever is to be executed; its stream."""
        stream = (await self.message(Kind.EXEC)).stream
        await self.send(Kind.STARTED, stream, codec.number(pid))
        return stream


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


@contextlib.asynccontextmanager
async def raw_guest(frame_deadline_s: float = 30.0) -> AsyncGenerator[tuple[GuestConnection, RawGuest]]:
    """A connection, greeted, and the guest that it leads to."""
    ours, theirs = pair()
    guest = RawGuest(theirs)
    greeting = asyncio.create_task(guest.greet())
    connection = await GuestConnection.open(ours, deadline_s=10, frame_deadline_s=frame_deadline_s)
    await greeting
    try:
        yield connection, guest
    finally:
        await connection.close()
        theirs.close()


class Program:
    """What a coroutine that plays a program can do."""

    def __init__(self, guest: FakeGuest, stream: int, args: list[str]) -> None:
        self.args = args
        self.signals: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        self.sizes: list[tuple[int, int]] = []
        self.closed: set[int] = set()
        self.most_sent_ahead = 0
        self._guest = guest
        self._stream = stream
        self._input: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._credit = {Channel.STDOUT: WINDOW, Channel.STDERR: WINDOW}
        self._changed = asyncio.Event()

    async def read(self) -> bytes:
        """What comes next, b"" at the end; credit goes back at once."""
        data = await self._input.get()
        if data is None:
            return b""
        await self._guest.send(Kind.INPUT_CREDIT, self._stream, codec.number(len(data)))
        return data

    async def write(self, data: bytes, channel: Channel = Channel.STDOUT, frame: int = MAX_PAYLOAD) -> bool:
        """False when nobody reads that channel any more."""
        while data:
            while not self._credit[channel]:
                self._changed.clear()
                await self._changed.wait()
            if channel in self.closed:
                return False
            piece = data[: min(frame, self._credit[channel])]
            self._credit[channel] -= len(piece)
            await self._guest.send(Kind.OUTPUT, self._stream, piece, channel)
            data = data[len(piece) :]
        return True

    def take(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.INPUT:
                self._input.put_nowait(frame.payload)
            case Kind.INPUT_END:
                self._input.put_nowait(None)
            case Kind.CREDIT:
                self._credit[Channel(frame.flags)] += codec.read_number(frame.payload)
                assert self._credit[Channel(frame.flags)] <= WINDOW
            case Kind.OUTPUT_CLOSED:
                self.closed.add(frame.flags)
                self._credit[Channel(frame.flags)] = WINDOW
            case Kind.SIGNAL:
                self.signals.put_nowait((codec.read_number(frame.payload), frame.flags))
            case Kind.RESIZE:
                rows, columns = struct.unpack("<HH", frame.payload)
                self.sizes.append((rows, columns))
            case _:
                raise AssertionError(f"the host sent {frame}")
        self._changed.set()


Main = Callable[[Program], Awaitable[int]]


class FakeGuest(RawGuest):
    """An agent that keeps to the protocol. `programs` are looked up by the first argument of a command.

    A PUT is kept in `files` under its path, a GET answers what is there.
    """

    def __init__(self, sock: socket.socket, programs: dict[str, Main]) -> None:
        super().__init__(sock)
        self.programs = programs
        self.files: dict[str, bytes] = {}
        self.asked: list[Frame] = []
        self._running: dict[int, Program] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()

    async def send(self, kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> None:
        async with self._lock:
            await super().send(kind, stream, payload, flags)

    async def serve(self) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                frame = await self.frame()
                if frame.stream in self._running:
                    self._running[frame.stream].take(frame)
                else:
                    await self._request(frame)

    async def _request(self, frame: Frame) -> None:
        while frame.flags & Flag.MORE and frame.kind in (Kind.EXEC, Kind.PUT, Kind.GET, Kind.MOUNT):
            more = await self.frame()
            frame = Frame(frame.kind, frame.stream, frame.payload + more.payload, more.flags)
        self.asked.append(frame)
        match frame.kind:
            case Kind.HELLO:
                await self.send(Kind.WELCOME, 0, WELCOME)
            case Kind.PING:
                await self.send(Kind.PONG, frame.stream)
            case Kind.REPORT:
                await self.send(Kind.REPORTED, frame.stream, REPORTED)
            case Kind.IDENTITY | Kind.MOUNT | Kind.SYNC:
                await self.send(Kind.DONE, frame.stream, done())
            case Kind.POWER_OFF:
                raise EOFError
            case Kind.EXEC | Kind.PUT | Kind.GET:
                await self._start(frame)
            case _:
                pass  # it crossed the last answer

    async def _start(self, frame: Frame) -> None:
        words = texts(frame.payload, 1 if frame.kind is Kind.EXEC else 32)
        program = Program(self, frame.stream, words)
        if frame.kind is Kind.EXEC:
            main = self.programs.get(words[0])
            if main is None:
                missing = failed(Step.EXEC, errno.ENOENT, words[0].encode())
                await self.send(Kind.FAILED, frame.stream, missing)
                return
            await self.send(Kind.STARTED, frame.stream, codec.number(100 + frame.stream))
            work = self._execute(frame.stream, program, main)
        elif frame.kind is Kind.PUT:
            work = self._put(frame.stream, program)
        else:
            work = self._get(frame.stream, program)
        self._running[frame.stream] = program
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, stream: int, program: Program, main: Main) -> None:
        status = await main(program)
        for channel in (Channel.STDOUT, Channel.STDERR):
            await self.send(Kind.OUTPUT_END, stream, b"", channel)
        del self._running[stream]
        await self.send(Kind.ENDED, stream, ended(status))

    async def _put(self, stream: int, program: Program) -> None:
        content = bytearray()
        while data := await program.read():
            content += data
        self.files[program.args[0]] = bytes(content)
        del self._running[stream]
        await self.send(Kind.DONE, stream, done(len(content), 1))

    async def _get(self, stream: int, program: Program) -> None:
        content = self.files.get(program.args[0])
        if content is None:
            answer = Kind.FAILED, failed(Step.OPEN, errno.ENOENT, program.args[0].encode())
        elif not await program.write(content):
            answer = Kind.FAILED, failed(Step.WRITE, errno.EPIPE)
        else:
            await self.send(Kind.OUTPUT_END, stream, b"", Channel.STDOUT)
            answer = Kind.DONE, done(len(content), 1)
        del self._running[stream]
        await self.send(answer[0], stream, answer[1])


def texts(message: bytes, wanted: int) -> list[str]:
    """The strings of one tag in a message of records."""
    found: list[str] = []
    while message:
        tag, length = struct.unpack_from("<II", message)
        if tag == wanted:
            found.append(message[8 : 8 + length].rstrip(b"\0").decode())
        message = message[8 + length :]
    return found


@contextlib.asynccontextmanager
async def fake_guest(**programs: Main) -> AsyncGenerator[tuple[GuestConnection, FakeGuest]]:
    """A connection to a guest that behaves."""
    ours, theirs = pair()
    guest = FakeGuest(theirs, programs)
    serving = asyncio.create_task(guest.serve())
    serving.add_done_callback(lambda _: theirs.close())
    connection = await GuestConnection.open(ours, deadline_s=10)
    try:
        yield connection, guest
    finally:
        await connection.close()
        await serving
