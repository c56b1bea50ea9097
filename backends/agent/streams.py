"""What the streams of a connection have in common: one answer, credit in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from backends.agent.decoder import ProtocolBreach
from backends.agent.errors import GuestLost, GuestRefused
from backends.agent.link import Deadline, Link
from backends.inside import agent_codec as codec
from backends.inside.agent_protocol import WINDOW, Channel, GuestFailed, Kind

__all__ = ["Answer", "InputCredit", "Outcome", "OutputCredit", "empty", "unexpected", "unwrap"]

T = TypeVar("T")
Outcome = T | GuestFailed | GuestLost
"""What a request came to. Never set as an exception: nobody may be waiting any more."""


def unexpected(kind: Kind, request: str) -> ProtocolBreach:
    return ProtocolBreach(f"it answered {request} with {kind.name}")


def empty(payload: memoryview) -> None:
    """`payload`, for a reader of messages that have none. Raises `ProtocolBreach`."""
    if payload:
        raise ProtocolBreach(f"it sent {len(payload)} bytes where none belong")


def unwrap(outcome: Outcome[T], request: str) -> T:
    """Raises `GuestRefused` or `GuestLost` when that is what it came to."""
    if isinstance(outcome, GuestFailed):
        raise GuestRefused(request, outcome)
    if isinstance(outcome, GuestLost):
        raise GuestLost(outcome.reason)
    return outcome


class Answer(Generic[T]):
    """A request that is answered by one frame of the kind `kind`, or by FAILED."""

    __slots__ = ("_future", "_kind", "_read", "_request")

    def __init__(self, request: str, kind: Kind, read: Callable[[memoryview], T]) -> None:
        self._request = request
        self._kind = kind
        self._read = read
        self._future: asyncio.Future[Outcome[T]] = asyncio.get_running_loop().create_future()

    def frame(self, kind: Kind, _flags: int, payload: memoryview) -> bool:
        if kind is self._kind:
            self._future.set_result(self._read(payload))
        elif kind is Kind.FAILED:
            self._future.set_result(codec.read_failed(bytes(payload)))
        else:
            raise unexpected(kind, self._request)
        return True

    def lost(self, error: GuestLost) -> None:
        self._future.set_result(error)

    async def wait(self, deadline: Deadline) -> T:
        return unwrap(await deadline.settle(self._future), self._request)


class OutputCredit:
    """What the guest may still send on one channel. `taken` gives it back, half a window at a time."""

    __slots__ = ("_channel", "_granted", "_link", "_owed", "_stream", "ended")

    def __init__(self, link: Link, stream: int, channel: Channel) -> None:
        self._link = link
        self._stream = stream
        self._channel = channel
        self._granted = WINDOW
        self._owed = 0
        self.ended = False

    def arrived(self, count: int) -> None:
        """Raises `ProtocolBreach` for more than was granted, for nothing, and after the end."""
        self._granted -= count
        if self.ended:
            raise ProtocolBreach(f"it sent OUTPUT after the end of {self._channel.name}")
        if self._granted < 0:
            raise ProtocolBreach(f"it sent {-self._granted} bytes more of {self._channel.name} than allowed")
        if not count:
            raise ProtocolBreach("it sent OUTPUT without a byte")

    def end(self, payload: memoryview) -> None:
        """Raises `ProtocolBreach` for a second end."""
        empty(payload)
        if self.ended:
            raise ProtocolBreach(f"it ended {self._channel.name} twice")
        self.ended = True

    def state(self) -> tuple[int, int, bool]:
        """What it may still send, what is to be given back, whether it has ended: for `go_on`."""
        return self._granted, self._owed, self.ended

    def go_on(self, state: tuple[int, int, bool]) -> None:
        """As another credit was, for the same channel of a copied machine."""
        self._granted, self._owed, self.ended = state

    def over(self) -> None:
        """The stream has ended, with or without an end of this channel."""
        self.ended = True

    def taken(self, count: int) -> None:
        """`count` bytes have left for whoever wanted them."""
        self._owed += count
        if self._owed >= WINDOW // 2 and not self.ended:
            self._link.send(Kind.CREDIT, self._stream, codec.number(self._owed), self._channel)
            self._granted += self._owed
            self._owed = 0

    def refuse(self) -> None:
        """Nobody takes the rest."""
        if not self.ended:
            self._link.send(Kind.OUTPUT_CLOSED, self._stream, b"", self._channel)


class InputCredit:
    """What may still be sent to the guest on one stream; `closed` when it takes no more at all."""

    __slots__ = ("closed", "left")

    def __init__(self) -> None:
        self.left = WINDOW
        self.closed = False

    def granted(self, payload: memoryview) -> None:
        """Raises `ProtocolBreach` for none, and for more than a window in all."""
        count = codec.read_number(bytes(payload))
        self.left += count
        if not count or self.left > WINDOW:
            raise ProtocolBreach(f"it granted {count} bytes of input, which makes {self.left}")

    def close(self, payload: memoryview) -> None:
        """Raises `ProtocolBreach` for a second time."""
        empty(payload)
        if self.closed:
            raise ProtocolBreach("it closed its input twice")
        self.closed = True
