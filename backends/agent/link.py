"""The socket to a guest: frames out, frames in to the stream that they belong to, and the end of it all.

Memory is bounded on both sides. What comes in lies in the decoder's buffer until its stream has taken it, and
a stream takes no more than it gave credit for. What goes out waits in one backlog: whoever has much to send
waits while it is `congested`; a guest that does not read while small messages pile up is lost.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from backends.agent.decoder import FrameDecoder, ProtocolBreach
from backends.agent.errors import GuestLost, GuestRefused, GuestSilent
from backends.inside.agent_codec import HEADER, encode_message
from backends.inside.agent_protocol import MAX_MESSAGE, MAX_STREAMS, GuestFailed, Kind, Step

__all__ = ["Deadline", "Link", "Stream"]

CONGESTED_BYTES = 131072
MAX_BACKLOG = CONGESTED_BYTES + MAX_MESSAGE + (1 << 20)
"""Who waits for room adds one message at most; the rest is for small ones."""

FRAMES_PER_TURN = 256
LAST_WORDS_S = 1.0
"""For what a guest sent before it stopped reading; then it is lost."""

_LAST_STREAM = 2**32 - 1
T = TypeVar("T")


class Stream(Protocol):
    """One request and all that belongs to it."""

    def frame(self, kind: Kind, flags: int, payload: memoryview, /) -> bool:
        """Take a frame; True for the last answer. Raises `ValueError` for one that cannot be meant."""
        ...

    def lost(self, error: GuestLost, /) -> None:
        """The connection has ended, the stream with it."""
        ...


class Deadline:
    """`seconds` (None: no end) from now on for the guest to answer `awaited`."""

    __slots__ = ("_until", "awaited", "seconds")

    def __init__(self, awaited: str, seconds: float | None) -> None:
        self.awaited = awaited
        self.seconds = seconds
        self._until = None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def settle(self, future: asyncio.Future[T]) -> T:
        """The result of a future that is not the caller's own: one who is cancelled leaves it alone.

        Raises `GuestSilent`.
        """
        if not future.done():
            left = None if self._until is None else self._until - asyncio.get_running_loop().time()
            await asyncio.wait((future,), timeout=left)
            if not future.done():
                raise GuestSilent(self.awaited, self.seconds or 0.0)
        return future.result()


class Link:
    """Takes a connected stream socket over. `lost` is done, with the reason, when the connection has ended.

    `frame_deadline_s`: how long a guest may take for one frame once it has begun it (at most twice as long).
    """

    def __init__(self, sock: socket.socket, frame_deadline_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[GuestLost] = self.loop.create_future()
        self._sock = sock
        self._frame_deadline_s = frame_deadline_s
        self._decoder = FrameDecoder()
        self._half_frame: asyncio.TimerHandle | None = None
        self._in_turn = False
        self._streams: dict[int, Stream] = {}
        self._next_stream = 0
        self._backlog = bytearray()
        self._deaf: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        self._held_back: dict[Callable[[], None], None] = {}
        sock.setblocking(False)
        self.loop.add_reader(sock.fileno(), self._readable)

    # Streams

    def begin(self, stream: Stream, kind: Kind, message: bytes) -> int:
        """Send the request that opens a stream. Its number; 0 is the first one, which is the greeting's.

        Raises `GuestLost`, `GuestRefused` while 1024 others are open (but for a PING, which takes no place),
        `ValueError` for more than 8 MiB.
        """
        self.check()
        if len(self._streams) >= MAX_STREAMS and kind is not Kind.PING:
            raise GuestRefused(kind.name, GuestFailed(Step.STREAMS, 0, f"{MAX_STREAMS} are open already"))
        number = self._next_stream
        if number > _LAST_STREAM:
            raise self.lose("its stream numbers are used up")
        frames = encode_message(kind, number, message)
        self._next_stream += 1
        self._streams[number] = stream
        self._write(b"", frames)
        return number

    def numbers(self) -> tuple[int, tuple[int, ...]]:
        """The next request's number, and those of the streams that are open."""
        return self._next_stream, tuple(self._streams)

    def go_on(self, next_stream: int, streams: Mapping[int, Stream]) -> None:
        """Take a conversation over that another link has begun, before anything is heard."""
        self._next_stream = max(self._next_stream, next_stream)
        self._streams.update(streams)

    def replace(self, number: int, stream: Stream) -> Stream:
        """Give an open stream's frames to another from now on; who had them until now."""
        before, self._streams[number] = self._streams[number], stream
        return before

    def check(self) -> None:
        """Raises `GuestLost` when the connection has ended."""
        if self.lost.done():
            raise GuestLost(self.lost.result().reason)

    def lose(self, reason: str) -> GuestLost:
        """End the connection, every stream with it. Only the first reason counts, and is returned."""
        if self.lost.done():
            return self.lost.result()
        error = GuestLost(reason)
        self.lost.set_result(error)
        self.loop.remove_reader(self._sock.fileno())
        self.loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for timer in (self._half_frame, self._deaf):
            if timer is not None:
                timer.cancel()
        self._backlog.clear()
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.lost(error)
        self._make_room()
        return error

    # Out

    @property
    def congested(self) -> bool:
        return len(self._backlog) >= CONGESTED_BYTES

    async def room(self, deadline: Deadline) -> None:
        """Wait until the guest has read most of what was sent. Raises `GuestLost`, `GuestSilent`."""
        while self.congested:
            if self._room is None:
                self._room = self.loop.create_future()
            await deadline.settle(self._room)
        self.check()

    def hold_back(self, resume: Callable[[], None]) -> None:
        """Have `resume` called when the link is no longer congested."""
        self._held_back[resume] = None

    def release(self, resume: Callable[[], None]) -> None:
        self._held_back.pop(resume, None)

    def send(self, kind: Kind, stream: int, payload: bytes | memoryview = b"", flags: int = 0) -> None:
        """One frame, at most 64 KiB. Nothing happens when the connection has ended."""
        self._write(HEADER.pack(len(payload), kind, flags, stream), payload)

    def _write(self, header: bytes, payload: bytes | memoryview) -> None:
        if self.lost.done() or self._deaf is not None:
            return
        sent = 0
        if not self._backlog:
            try:
                sent = self._sock.sendmsg((header, payload))
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._stop_sending(error)
                return
            if sent == len(header) + len(payload):
                return
            self.loop.add_writer(self._sock.fileno(), self._writable)
        self._backlog += header[sent:]
        self._backlog += payload[max(0, sent - len(header)) :]
        if len(self._backlog) > MAX_BACKLOG:
            # Not from here: the caller may be in the middle of a stream's own work.
            self.loop.call_soon(self.lose, "it does not read what is sent to it")

    def _writable(self) -> None:
        try:
            with memoryview(self._backlog) as waiting:
                sent = self._sock.send(waiting[:CONGESTED_BYTES])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._stop_sending(error)
            return
        del self._backlog[:sent]
        if not self._backlog:
            self.loop.remove_writer(self._sock.fileno())
        if not self.congested:
            self._make_room()

    def _stop_sending(self, error: OSError) -> None:
        # What it sent before it went is still in the socket: the end is noticed by who reads.
        self._backlog.clear()
        self.loop.remove_writer(self._sock.fileno())
        reason = f"it reads no more ({os.strerror(error.errno or 0)})"
        self._deaf = self.loop.call_later(LAST_WORDS_S, self.lose, reason)

    def _make_room(self) -> None:
        if self._room is not None:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None
        held_back, self._held_back = list(self._held_back), {}
        for resume in held_back:
            resume()

    # In

    def _readable(self) -> None:
        if self._in_turn:
            return
        try:
            count = self._sock.recv_into(self._decoder.room())
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:
            count = 0  # it went without having read everything
        except OSError as error:
            self.lose(f"it cannot be read ({os.strerror(error.errno or 0)})")
            return
        if not count:
            self.lose("it hung up in the middle of a frame" if self._decoder.partial else "it hung up")
            return
        self._decoder.received(count)
        self._turn()

    def _turn(self) -> None:
        """Hand out what has come, but let others have their turn when it is many small frames."""
        self._in_turn = False
        try:
            for _ in range(FRAMES_PER_TURN):
                if self.lost.done():
                    return
                frame = self._decoder.next()
                if frame is None:
                    self._time_half_frame()
                    return
                self.hand_out(*frame)
        except ValueError as breach:
            self.lose(f"{breach}")
            return
        except BaseException:
            self.lose("a frame of its could not be dealt with")
            raise
        self._in_turn = True
        self.loop.call_soon(self._turn)

    def hand_out(self, kind: Kind, flags: int, number: int, payload: memoryview) -> None:
        """To the stream that it is of. Raises `ProtocolBreach` for one that is not open."""
        stream = self._streams.get(number)
        if stream is None:
            raise ProtocolBreach(f"it sent {kind.name} for stream {number}, which is not open")
        if stream.frame(kind, flags, payload):
            self._streams.pop(number, None)

    def _time_half_frame(self) -> None:
        if self._decoder.partial and self._half_frame is None:
            self._half_frame = self.loop.call_later(
                self._frame_deadline_s, self._check_half_frame, self._decoder.frames
            )

    def _check_half_frame(self, frames: int) -> None:
        self._half_frame = None
        if self._decoder.partial and self._decoder.frames == frames:
            self.lose(f"it sent half a frame and no more for {self._frame_deadline_s:g} s")
        else:
            self._time_half_frame()
