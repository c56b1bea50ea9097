"""Archives on their way into the guest and out of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable

from backends.agent.decoder import ProtocolBreach
from backends.agent.errors import GuestLost
from backends.agent.link import Deadline, Link
from backends.agent.streams import InputCredit, Outcome, OutputCredit, unexpected, unwrap
from backends.inside import agent_codec as codec
from backends.inside.agent_protocol import MAX_PAYLOAD, Channel, GuestDone, GuestFiles, Kind

__all__ = ["Download", "Upload"]


class _Transfer:
    """What a PUT and a GET have in common: how they end, and how what waits for them is woken."""

    def __init__(self, link: Link, name: str, stall_s: float) -> None:
        self._link = link
        self._name = name
        self._stall_s = stall_s
        self._outcome: asyncio.Future[Outcome[GuestDone]] = link.loop.create_future()
        self._changed = link.loop.create_future()

    def lost(self, error: GuestLost) -> None:
        self._outcome.set_result(error)
        self._wake()

    def _deadline(self) -> Deadline:
        return Deadline(self._name, self._stall_s)

    def _end(self, kind: Kind, payload: memoryview) -> None:
        """Take the last answer, or refuse a frame that is none."""
        if kind is Kind.DONE:
            self._outcome.set_result(codec.read_done(bytes(payload)))
        elif kind is Kind.FAILED:
            self._outcome.set_result(codec.read_failed(bytes(payload)))
        else:
            raise unexpected(kind, self._name)

    async def _change(self, deadline: Deadline) -> None:
        self._changed = self._link.loop.create_future()
        await deadline.settle(self._changed)

    def _wake(self) -> None:
        if not self._changed.done():
            self._changed.set_result(None)


class Upload(_Transfer):
    """One PUT."""

    def __init__(self, link: Link, stall_s: float) -> None:
        super().__init__(link, "PUT", stall_s)
        self._credit = InputCredit()
        self._stream = -1

    async def send(self, files: GuestFiles, chunks: Iterable[bytes] | AsyncIterable[bytes]) -> GuestDone:
        """All of it; the answer. Whatever goes wrong, the guest is told that no more comes."""
        await self._link.room(self._deadline())
        self._stream = self._link.begin(self, Kind.PUT, codec.files(files))
        try:
            if isinstance(chunks, AsyncIterable):
                async for chunk in chunks:
                    if not await self._pass(memoryview(chunk)):
                        break
            else:
                for chunk in chunks:
                    if not await self._pass(memoryview(chunk)):
                        break
        finally:
            if not self._outcome.done():
                self._link.send(Kind.INPUT_END, self._stream)
        return unwrap(await self._deadline().settle(self._outcome), "PUT")

    async def _pass(self, data: memoryview) -> bool:
        """Send one piece, as the guest takes it; False when it takes no more."""
        while data:
            deadline = self._deadline()
            while not self._credit.left and not self._over:
                await self._change(deadline)
            if not self._over:
                await self._link.room(deadline)
            if self._over:
                return False
            piece = data[: min(self._credit.left, MAX_PAYLOAD)]
            self._credit.left -= len(piece)
            self._link.send(Kind.INPUT, self._stream, piece)
            data = data[len(piece) :]
        return True

    @property
    def _over(self) -> bool:
        return self._outcome.done() or self._credit.closed

    def frame(self, kind: Kind, _flags: int, payload: memoryview) -> bool:
        if kind is Kind.INPUT_CREDIT:
            self._credit.granted(payload)
        elif kind is Kind.INPUT_CLOSED:
            self._credit.close(payload)
        else:
            self._end(kind, payload)
        self._wake()
        return self._outcome.done()


class Download(_Transfer):
    """The archive that a GET answers, piece by piece as it is asked for.

    Credit goes back as pieces are taken: at most one window waits here. Whoever stops early calls `aclose`
    (or uses it with ``contextlib.aclosing``). `done` is there once all of it was taken.
    """

    def __init__(self, link: Link, files: GuestFiles, stall_s: float) -> None:
        super().__init__(link, "GET", stall_s)
        self.done: GuestDone | None = None
        self._files = files
        self._credit: OutputCredit | None = None
        self._waiting = bytearray()
        self._dropping = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Raises `GuestRefused`, `GuestLost`, and `GuestSilent` when the guest sends nothing for long."""
        if self._dropping:
            raise StopAsyncIteration
        deadline = self._deadline()
        if self._credit is None:
            await self._ask(deadline)
        while not self._waiting:
            if self._outcome.done():
                self.done = unwrap(self._outcome.result(), "GET")
                raise StopAsyncIteration
            await self._change(deadline)
        data, self._waiting = bytes(self._waiting), bytearray()
        assert self._credit is not None, "it was asked for"
        self._credit.taken(len(data))
        return data

    async def aclose(self) -> None:
        """Take no more of it. What still comes is dropped."""
        if not self._dropping:
            self._dropping = True
            self._waiting = bytearray()
            if self._credit is not None and not self._outcome.done():
                self._credit.refuse()

    async def _ask(self, deadline: Deadline) -> None:
        await self._link.room(deadline)
        stream = self._link.begin(self, Kind.GET, codec.files(self._files))
        self._credit = OutputCredit(self._link, stream, Channel.STDOUT)

    def frame(self, kind: Kind, flags: int, payload: memoryview) -> bool:
        assert self._credit is not None, "frames come for open streams only"
        if kind in (Kind.OUTPUT, Kind.OUTPUT_END) and flags != Channel.STDOUT:
            raise ProtocolBreach(f"it sent output of the channel {flags} for GET")
        if kind is Kind.OUTPUT:
            self._credit.arrived(len(payload))
            if not self._dropping:
                self._waiting += payload
        elif kind is Kind.OUTPUT_END:
            self._credit.end(payload)
        elif kind is Kind.DONE and not self._credit.ended:
            raise unexpected(kind, self._name)
        else:
            self._end(kind, payload)
        self._wake()
        return self._outcome.done()
