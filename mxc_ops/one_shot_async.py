"""`run` for an event loop: descriptors are watched by the loop, no thread per run, cancellation kills."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Sequence

from backends.base import Running
from backends.ended import Ended
from mxc_ops.channels import DEFAULT_CAP_BYTES, Channel
from mxc_ops.deadline import KILL_PATIENCE_S, Deadline
from mxc_ops.ends import Descriptor, Ends, OnChunk, Wiring
from mxc_ops.exchange import stop, wait_for_end
from mxc_ops.one_shot import Prepared, prepare
from mxc_ops.result import Result
from mxc_ops.sources import Source, as_request
from mxc_ops.wiring import connect


async def arun(
    source: Source,
    command: str | Sequence[str] | None = None,
    *,
    input: bytes | None = None,
    stdin: Descriptor | None = None,
    stdout: Descriptor | None = None,
    stderr: Descriptor | None = None,
    on_stdout: OnChunk | None = None,
    on_stderr: OnChunk | None = None,
    max_output_bytes: int = DEFAULT_CAP_BYTES,
) -> Result:
    """Run one command in one sandbox without blocking the event loop.

    Parameters and errors as for `run`; callbacks are called on the loop. Cancelling kills the sandbox, waits
    until it is gone, and then lets the cancellation through. A terminal passed as `stdin` stays in its mode.
    """
    ends = Ends(input, stdin, stdout, stderr, on_stdout, on_stderr, max_output_bytes)
    return await arun_prepared(lambda: prepare(as_request(source, command)), ends)


async def arun_prepared(prepared: Callable[[], Prepared], ends: Ends) -> Result:
    """The same of whatever `prepared` makes, which is called on another thread."""
    loop = asyncio.get_running_loop()
    # Looking at the host and launching block for some milliseconds: not on the loop.
    starting = loop.run_in_executor(None, _Started, prepared, ends)
    try:
        started = await asyncio.shield(starting)
    except asyncio.CancelledError:
        await _discard(starting)
        raise
    try:
        ended = await _Watch(loop, started).end()
    finally:
        started.wiring.close()
    return started.prepared.conclude(ended, started.deadline.timed_out, started.wiring.captures)


class _Started:
    """A launched sandbox with its streams and deadline."""

    prepared: Prepared
    wiring: Wiring
    running: Running
    deadline: Deadline

    def __init__(self, prepared: Callable[[], Prepared], ends: Ends) -> None:
        with prepared() as self.prepared:
            request = self.prepared.request
            self.wiring = connect(request, ends)
            try:
                self.running = self.prepared.launch(self.wiring.streams)
            except BaseException:
                self.wiring.close()
                raise
            self.deadline = Deadline(request.timeout)
            self.wiring.launched()


async def _discard(starting: asyncio.Future[_Started]) -> None:
    """Cancelled while a worker thread was starting the sandbox: let it finish, then end what it started."""
    await _uncancelled(starting)
    if not starting.cancelled() and starting.exception() is None:
        started = starting.result()
        started.running.kill()
        await _Watch(asyncio.get_running_loop(), started).gone()
        started.wiring.close()


async def _uncancelled(future: asyncio.Future[_Started] | asyncio.Future[None]) -> None:
    """Wait for `future` whatever happens to us meanwhile, or until it has taken far too long."""
    until = asyncio.get_running_loop().time() + KILL_PATIENCE_S
    while not future.done() and (left := until - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.wait([future], timeout=left)
        except asyncio.CancelledError:
            continue


class _Watch:
    """One sandbox's descriptors on an event loop, until the sandbox is gone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, started: _Started) -> None:
        self._loop = loop
        self._running = started.running
        self._deadline = started.deadline
        self._channels = started.wiring.channels
        self._watched: dict[Channel, tuple[int, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._running.pidfd, self._set_gone)

    async def end(self) -> Ended:
        """Carry the streams and enforce the deadline until the end; kill the sandbox if this fails."""
        failure: asyncio.Future[None] = self._loop.create_future()
        self._failure = failure
        try:
            for channel in self._channels:
                self._watch(channel)
            self._set_timer()
            await asyncio.wait([self._gone, failure], return_when=asyncio.FIRST_COMPLETED)
            if failure.done():
                failure.result()
            for channel in self._channels:
                if channel.fd >= 0:
                    channel.drain()
            return wait_for_end(self._running)
        except GeneratorExit:
            stop(self._running)  # the coroutine is being closed: it cannot await any more
            raise
        except BaseException:
            self._running.kill()
            await self.gone()
            raise
        finally:
            self._unwatch_all()

    async def gone(self) -> None:
        """Wait for the end, through any further cancellation, and clean up."""
        try:
            await _uncancelled(self._gone)
        finally:
            self._unwatch_all()
        stop(self._running)

    def _set_gone(self) -> None:
        self._loop.remove_reader(self._running.pidfd)
        if not self._gone.done():
            self._gone.set_result(None)

    def _ready(self, channel: Channel) -> None:
        if channel not in self._watched:
            return
        try:
            going = channel.step()
        except BaseException as error:
            self._fail(error)
            return
        if not going:
            self._unwatch(channel)
            channel.close()
        elif (channel.fd, channel.events) != self._watched[channel]:
            self._unwatch(channel)
            self._watch(channel)

    def _watch(self, channel: Channel) -> None:
        self._watched[channel] = (channel.fd, channel.events)
        add = self._loop.add_reader if channel.events == select.POLLIN else self._loop.add_writer
        try:
            add(channel.fd, self._ready, channel)
        except PermissionError:
            # epoll takes no regular files: they are always ready (epoll_ctl(2), EPERM).
            self._loop.call_soon(self._ready_again, channel)

    def _ready_again(self, channel: Channel) -> None:
        before = self._watched.get(channel)
        self._ready(channel)
        if before is not None and self._watched.get(channel) == before:
            self._loop.call_soon(self._ready_again, channel)

    def _unwatch(self, channel: Channel) -> None:
        fd, events = self._watched.pop(channel)
        remove = self._loop.remove_reader if events == select.POLLIN else self._loop.remove_writer
        remove(fd)

    def _unwatch_all(self) -> None:
        for channel in tuple(self._watched):
            self._unwatch(channel)
        self._loop.remove_reader(self._running.pidfd)
        if self._timer is not None:
            self._timer.cancel()

    def _set_timer(self) -> None:
        remaining_s = self._deadline.remaining_s()
        if remaining_s is not None:
            self._timer = self._loop.call_later(remaining_s, self._enforce)

    def _enforce(self) -> None:
        try:
            self._deadline.enforce(self._running)
        except BaseException as error:
            self._fail(error)
            return
        self._set_timer()

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)
