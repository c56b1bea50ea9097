"""One thing at a time with a machine, by whichever thread; and a way to end it from any other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from backends.errors import LaunchFailed, LifecycleError, MxcError, Problem
from backends.qemu.loop_thread import submit
from mxc_ops.hyperlight.exchange import Stopped

__all__ = ["Ticket", "Turns"]

_Answer = TypeVar("_Answer")
_PATIENCE_S = 30.0


class CanStop(Protocol):
    def stop(self) -> None:
        """Called on any thread."""
        ...


class Ticket:
    """Whoever does something with a machine, in the thread that does it; `stop` is for any other."""

    def __init__(self, changed: threading.Condition) -> None:
        self.stopped = False
        self._changed = changed
        self._work: Future[Any] | None = None
        self._stops: CanStop | None = None

    def stop(self) -> None:
        """It raises `Stopped` in whatever it waits for. Idempotent."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()
            work, stops = self._work, self._stops
        if work is not None:
            work.cancel()
        if stops is not None:
            stops.stop()

    @contextmanager
    def talking(self, stops: CanStop) -> Generator[None]:
        """While it waits for something that raises `Stopped` when it is stopped."""
        with self._changed:
            if self.stopped:
                raise Stopped
            self._stops = stops
        try:
            yield
        finally:
            with self._changed:
                self._stops = None

    def on_loop(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Have it done on the loop of machines. Interrupted or stopped, this returns after its end."""
        begun, ended = threading.Event(), threading.Event()

        async def whole() -> _Answer:
            begun.set()
            try:
                return await work
            finally:
                ended.set()

        with self._changed:
            if self.stopped:
                work.close()
                raise Stopped
            future = self._work = submit(whole())
        try:
            return future.result()
        except CancelledError:
            self._outlast(begun, ended, work)
            raise Stopped from None
        except BaseException:
            if not future.done():
                future.cancel()
                self._outlast(begun, ended, work)
            raise
        finally:
            with self._changed:
                self._work = None

    @staticmethod
    def _outlast(begun: threading.Event, ended: threading.Event, work: Coroutine[Any, Any, Any]) -> None:
        submit(asyncio.sleep(0)).result()  # what was cancelled before it began does not begin after this
        if begun.is_set():
            ended.wait(_PATIENCE_S)
        else:
            work.close()


class Turns:
    """At most one ticket is held at any time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: Ticket | None = None
        self._closed = False

    def ticket(self) -> Ticket:
        return Ticket(self._changed)

    @contextmanager
    def take(self, ticket: Ticket | None = None) -> Generator[Ticket]:
        """Wait for our turn, and have it. Raises `Stopped`, `LifecycleError` once all is closed."""
        ticket = ticket or self.ticket()
        with self._changed:
            while self._holder is not None and not ticket.stopped and not self._closed:
                self._changed.wait()
            if self._closed:
                raise self.why_stopped()
            if ticket.stopped:
                raise Stopped
            self._holder = ticket
        try:
            yield ticket
        finally:
            self._give_back()

    @contextmanager
    def last(self) -> Generator[Ticket | None]:
        """Stop whoever has it, and let nobody else have it any more; None when that was done before."""
        with self._changed:
            first, self._closed = not self._closed, True
            holder = self._holder
            self._changed.notify_all()
        if holder is not None:
            holder.stop()
        ticket = self.ticket()
        with self._changed:
            while self._holder is not None:
                self._changed.wait()
            self._holder = ticket
        try:
            yield ticket if first else None
        finally:
            self._give_back()

    def why_stopped(self) -> MxcError:
        """What `Stopped` is to whoever had asked for something."""
        if self._closed:
            message = "it was closed, and its machine has ended"
            return LifecycleError("not_started", Problem("closed", "", message, fix="make another one"))
        return LaunchFailed(Problem("interrupted", "", "the run was stopped, with its interpreter"))

    def _give_back(self) -> None:
        with self._changed:
            self._holder = None
            self._changed.notify_all()
