"""The host's end of an interpreter that runs cells: one run after the other, by whichever thread asks.

All of a run happens in the thread that asked for it: it waits for frames, for answers of functions that
others call, for deadlines, and for being told to stop. So a slow taker of output holds up the guest, and
nothing else.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from backends.frozen import frozen
from mxc_ops.hyperlight.calls import Calls
from mxc_ops.hyperlight.frames import VERSION, Breach, FrameReader, Kind, encode, read_object

__all__ = ["Done", "Exchange", "Lost", "Order", "Stopped", "TimedOut"]

_PIECE = 65536
_MOST_BACKLOG = 1 << 20
"""While a guest has not read more than this, nothing more is read of it either."""


class Lost(Exception):
    """The interpreter hung up, or sent what nobody of ours sends: `why`, "" when it just hung up."""

    def __init__(self, why: str = "") -> None:
        super().__init__(why)
        self.why = why


class TimedOut(Exception):
    """The time of the run is up."""


class Stopped(Exception):
    """Somebody called `Exchange.stop`."""


@frozen
class Order:
    """One run.

    Parameters
    ----------
    stream: whether output is wanted line by line.
    deadline: on the monotonic clock, None for no end.
    grace_s: what the interpreter has after `interrupt` was called, once the deadline was met; 0 for nothing.
    """

    code: str
    name: str
    stream: bool
    calls: Calls
    tools: tuple[str, ...]
    on_stdout: Callable[[bytes], object]
    on_stderr: Callable[[bytes], object]
    deadline: float | None
    grace_s: float
    interrupt: Callable[[], object]


@frozen
class Done:
    """What the interpreter says of a cell, in bounds and of the right types, and otherwise its own words."""

    code: int
    value: Any
    value_repr: str
    error: tuple[str, str, str] | None
    interrupted: bool


class Exchange:
    """Over a connected socket, which is its own from now on. One run at a time; `stop` from anywhere."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._reader = FrameReader()
        self._frames: Iterator[tuple[Kind, bytes]] = iter(())
        self._out = bytearray()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()  # of the descriptor to wake by, against its being somebody else's
        self._stopped = False

    def close(self) -> None:
        """By whoever has made sure that no run is on its way. Idempotent."""
        with self._lock:
            if self._wake >= 0:
                self._sock.close()
                os.close(self._wake)
                self._wake = -1

    def stop(self) -> None:
        """The run that is on its way raises `Stopped`, and so does every other."""
        self._stopped = True
        self.wake()

    def wake(self) -> None:
        """Have the run look for what others have done meanwhile; nothing once this is closed."""
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    @property
    def at_rest(self) -> bool:
        """Whether all that was sent was read there, and nothing has come that nobody has asked for."""
        waits = (termios.TIOCOUTQ, termios.FIONREAD)  # of a socket: unix(7)
        left = [fcntl.ioctl(self._sock, ask, bytes(4)) for ask in waits]
        return not self._reader.partial and left == [bytes(4), bytes(4)]

    def seed(self, random: bytes) -> None:
        """Have it draw other random numbers; sent with the next run."""
        self._out += encode(Kind.SEED, random)

    def greet(self, deadline: float) -> None:
        """Wait until it is ready. Raises `Lost`, `TimedOut`, `Stopped`."""
        while True:
            kind, content = self._next(deadline, None)
            if kind is not Kind.READY:
                raise Lost(f"it sent {kind.name} before it was ready")
            try:
                version = read_object(content).get("version")
            except Breach as breach:
                raise Lost(str(breach)) from None
            if version != VERSION:
                raise Lost(f"it speaks version {version!r} of our frames, and {VERSION} is wanted")
            return

    def run(self, order: Order) -> Done:
        """Raises `Lost`, `TimedOut`, `Stopped`, and whatever a taker of output raises.

        After any of these the interpreter is of no use any more.
        """
        message = {"code": order.code, "name": order.name, "stream": order.stream, "tools": order.tools}
        self._out += encode(Kind.RUN, json.dumps(message).encode())
        deadline, interrupted = order.deadline, False
        try:
            while True:
                try:
                    kind, content = self._next(deadline, order.calls)
                except TimedOut:
                    if interrupted or not order.grace_s:
                        raise
                    interrupted = True
                    deadline = time.monotonic() + order.grace_s
                    order.interrupt()
                    continue
                if kind is Kind.STDOUT:
                    order.on_stdout(content)
                elif kind is Kind.STDERR:
                    order.on_stderr(content)
                elif kind is Kind.CALL:
                    order.calls.take(read_object(content))
                elif kind is Kind.DONE:
                    return _done(read_object(content), interrupted=interrupted)
                else:
                    raise Breach(f"it sent {kind.name} in the middle of a run")
        except Breach as breach:
            raise Lost(str(breach)) from None
        finally:
            order.calls.close()

    def _next(self, deadline: float | None, calls: Calls | None) -> tuple[Kind, bytes]:
        """The next frame; meanwhile what is to be sent is sent, and calls are answered."""
        while True:
            if self._stopped:
                raise Stopped
            if calls is not None:
                for answer in calls.collect():
                    self._out += encode(Kind.ANSWER, answer)
            if self._out:
                self._write()
            held_up = len(self._out) > _MOST_BACKLOG or (calls is not None and calls.is_full)
            if not held_up:
                try:
                    frame = next(self._frames, None)
                except Breach as breach:
                    raise Lost(str(breach)) from None
                if frame is not None:
                    if deadline is not None and time.monotonic() >= deadline:
                        self._frames = _again(frame, self._frames)
                        raise TimedOut
                    return frame
            self._wait(deadline, calls, reading=not held_up)

    def _wait(self, deadline: float | None, calls: Calls | None, *, reading: bool) -> None:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            raise TimedOut
        until = [one for one in (deadline, calls.next_deadline if calls else None) if one is not None]
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        wanted = (select.POLLIN if reading else 0) | (select.POLLOUT if self._out else 0)
        if wanted:
            poller.register(self._sock, wanted)
        timeout_ms = max(0.0, (min(until) - now) * 1000) + 0.5 if until else None
        for fd, events in poller.poll(timeout_ms):
            if fd == self._wake:
                os.eventfd_read(self._wake)
            elif reading and events & ~select.POLLOUT:
                self._read()
            elif events & (select.POLLHUP | select.POLLERR):
                raise Lost

    def _read(self) -> None:
        try:
            data = self._sock.recv(_PIECE)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            raise Lost("it ended in the middle of a frame" if self._reader.partial else "")
        self._frames = self._reader.feed(data)

    def _write(self) -> None:
        try:
            with memoryview(self._out) as waiting:
                sent = self._sock.send(waiting[:_PIECE], socket.MSG_NOSIGNAL)
            del self._out[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._out.clear()  # it has gone: what it sent before is still to be read


def _again(frame: tuple[Kind, bytes], rest: Iterator[tuple[Kind, bytes]]) -> Iterator[tuple[Kind, bytes]]:
    yield frame
    yield from rest


def _done(message: dict[str, Any], *, interrupted: bool) -> Done:
    """Raises `Breach`."""
    code, shown, error = message.get("code"), message.get("repr"), message.get("error")
    if type(code) is not int or not 0 <= code <= 255:
        raise Breach("it ended a run without an exit code")
    if shown is not None and not isinstance(shown, str):
        raise Breach("it shows a value that is no text")
    told = None
    if error is not None:
        if not isinstance(error, dict):
            raise Breach("it tells an error that is none")
        told = _text(error, "type"), _text(error, "message"), _text(error, "traceback")
    return Done(code, message.get("value"), shown or "", told, interrupted)


def _text(error: Any, name: str) -> str:
    text = error.get(name)
    if not isinstance(text, str):
        raise Breach("it tells an error that is none")
    return text
