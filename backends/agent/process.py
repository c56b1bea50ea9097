"""A program in the guest, with its streams."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from functools import partial

from backends.agent.decoder import ProtocolBreach
from backends.agent.errors import GuestLost
from backends.agent.link import Deadline, Link
from backends.agent.pumps import Outlet, Sink, Source
from backends.agent.streams import Outcome, OutputCredit, unexpected, unwrap
from backends.frozen import frozen
from backends.inside import agent_codec as codec
from backends.inside.agent_protocol import WINDOW, Channel, Flag, GuestEnded, Kind

__all__ = ["GuestProcess", "Standing"]


@frozen
class Standing:
    """A program that runs, and how far its streams have come: what goes on with it in a copy of its machine.

    `input_left` is what may still be sent to it, None when it takes no more; `outputs` are as of
    `OutputCredit.state`, for standard output and error.
    """

    stream: int
    pid: int
    input_left: int | None
    outputs: tuple[tuple[int, int, bool], tuple[int, int, bool]]


class GuestProcess:
    """Made by `GuestConnection.execute`.

    `pid` is the guest's number for it, `first_output_s` when its first output came, in the loop's time, None
    before that. `exited` is done as soon as the guest says how it ended (or is lost),
    while output may still be on its way to a slow consumer; `wait` is what most want. `output_errors` says
    for which channels the consumer failed, and how: EPIPE is one that has gone. `output_ended` is done, for a
    channel, when all of it has reached its consumer, or is dropped.
    """

    def __init__(self, link: Link, source: Source | None, stdout: int | Sink, stderr: int | Sink) -> None:
        """Raises `OSError` for a descriptor that is not open. The caller sends EXEC, then `starts`."""
        self.pid = 0
        self.first_output_s: float | None = None
        self.exited: asyncio.Future[Outcome[GuestEnded]] = link.loop.create_future()
        self.stream = -1
        self._link = link
        self._started: asyncio.Future[Outcome[int]] = link.loop.create_future()
        self._flushed: asyncio.Future[None] = link.loop.create_future()
        self._on_flushed: Callable[[], object] | None = None
        self._abandoned = False
        self._source = source
        self._outlets: dict[Channel, Outlet] = {}
        self._credits: dict[Channel, OutputCredit] = {}
        self._unflushed = 2
        self.output_ended: dict[Channel, asyncio.Future[None]] = {
            channel: link.loop.create_future() for channel in Channel
        }
        try:
            for channel, target in ((Channel.STDOUT, stdout), (Channel.STDERR, stderr)):
                self._outlets[channel] = Outlet(link, target, partial(self._one_flushed, channel))
        except BaseException:
            self.discard()
            raise

    @property
    def output_errors(self) -> dict[Channel, OSError]:
        return {channel: outlet.error for channel, outlet in self._outlets.items() if outlet.error}

    @property
    def input_left(self) -> int:
        """How many bytes of input the guest would take now."""
        return self._source.credit.left if self._source is not None else 0

    # For the caller

    async def wait(self, *, deadline_s: float | None = None) -> GuestEnded:
        """How it ended, once all of its output has reached its consumers.

        Raises `GuestLost` (what came before is still delivered first) and `GuestSilent` after `deadline_s`
        seconds. Being cancelled changes nothing: it can be called again.
        """
        deadline = Deadline("EXEC with its end", deadline_s)
        ended = await deadline.settle(self.exited)
        await deadline.settle(self._flushed)
        return unwrap(ended, "EXEC")

    def signal(self, number: int, *, last: bool = False) -> None:
        """To the program and all that it has started. Not after its end.

        With `last` its time is up: what it leaves behind when it ends is killed, too.
        """
        if not self.exited.done():
            self._link.send(Kind.SIGNAL, self.stream, codec.number(number), Flag.LAST if last else 0)

    def resize(self, rows: int, columns: int) -> None:
        """The new size of its terminal."""
        if not self.exited.done():
            self._link.send(Kind.RESIZE, self.stream, codec.resize(rows, columns))

    def discard(self) -> None:
        """Drop output that waits for its consumers or is still to come; read no more input."""
        if self._source is not None:
            self._source.close()
        for outlet in self._outlets.values():
            outlet.discard()

    @property
    def standing(self) -> Standing:
        """Of one that has started."""
        source = self._source
        left = None if source is None or source.credit.closed else source.credit.left
        stdout, stderr = (self._credits[channel].state() for channel in Channel)
        return Standing(self.stream, self.pid, left, (stdout, stderr))

    # For the connection

    def go_on(self, standing: Standing) -> None:
        """Instead of `starts` and what follows: it runs already, in a copy of its machine."""
        self.starts(standing.stream)
        self.pid = standing.pid
        self._started.set_result(standing.pid)
        for channel, state in zip(Channel, standing.outputs, strict=True):
            self._credits[channel].go_on(state)
            if self._credits[channel].ended:
                self._outlets[channel].end()
        if self._source is not None and standing.input_left is not None:
            self._source.credit.left = standing.input_left
            self._source.start(standing.stream)

    def starts(self, stream: int) -> None:
        self.stream = stream
        for channel, outlet in self._outlets.items():
            credit = self._credits[channel] = OutputCredit(self._link, stream, channel)
            outlet.start(credit)

    def goes_on(self, stream: int, pid: int, input_left: int) -> None:
        """Instead of `starts`, where another connection has started it, and nothing is on its way."""
        self.starts(stream)
        self.pid = pid
        self._started.set_result(pid)
        for channel in Channel:  # more than a window is a window
            self._link.send(Kind.CREDIT, stream, codec.number(WINDOW), channel)
        if self._source is not None:
            self._source.credit.left = input_left
            self._source.start(stream)

    async def started(self, deadline: Deadline) -> None:
        """Raises `GuestRefused` when nothing runs, `GuestLost`, `GuestSilent`."""
        self.pid = unwrap(await deadline.settle(self._started), deadline.awaited)

    def abandon(self) -> None:
        """Nobody waits for its start any more: it is killed as soon as it runs."""
        self._abandoned = True
        self.discard()
        if self._started.done():
            self.signal(signal.SIGKILL)

    def when_flushed(self, then: Callable[[], object]) -> None:
        self._flushed.add_done_callback(lambda _: then())

    def frame(self, kind: Kind, flags: int, payload: memoryview) -> bool:
        if not self._started.done():
            return self._first(kind, payload)
        if kind is Kind.OUTPUT:
            if self.first_output_s is None:
                self.first_output_s = self._link.loop.time()
            self._outlet(flags).arrived(payload)
        elif kind is Kind.OUTPUT_END:
            outlet = self._outlet(flags)
            self._credits[Channel(flags)].end(payload)
            outlet.end()
        elif kind is Kind.INPUT_CREDIT and self._source is not None:
            self._source.credit.granted(payload)
            self._source.resume()
        elif kind is Kind.INPUT_CLOSED and self._source is not None:
            self._source.credit.close(payload)
            self._source.close()
        elif kind is Kind.ENDED:
            self._end(codec.read_ended(bytes(payload)))
            return True
        else:
            raise unexpected(kind, "EXEC")
        return False

    def lost(self, error: GuestLost) -> None:
        if not self._started.done():
            self._started.set_result(error)
        self._end(error)

    # Steps

    def _first(self, kind: Kind, payload: memoryview) -> bool:
        if kind is Kind.FAILED:
            failed = codec.read_failed(bytes(payload))
            self._started.set_result(failed)
            self._end(failed)
            return True
        if kind is not Kind.STARTED:
            raise unexpected(kind, "EXEC")
        self._started.set_result(codec.read_number(bytes(payload)))
        if self._abandoned:
            self.signal(signal.SIGKILL)
        elif self._source is not None:
            self._source.start(self.stream)
        return False

    def _outlet(self, flags: int) -> Outlet:
        outlet = self._outlets.get(flags)  # pyright: ignore[reportArgumentType]
        if outlet is None:
            raise ProtocolBreach(f"it sent output of the channel {flags}")
        return outlet

    def _end(self, outcome: Outcome[GuestEnded]) -> None:
        self.exited.set_result(outcome)
        if self._source is not None:
            self._source.close()
        for credit in self._credits.values():
            credit.over()
        for outlet in self._outlets.values():
            outlet.end()

    def _one_flushed(self, channel: Channel) -> None:
        self.output_ended[channel].set_result(None)
        self._unflushed -= 1
        if not self._unflushed and not self._flushed.done():
            self._flushed.set_result(None)
