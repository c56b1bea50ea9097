"""Runs without an interpreter that stays: each is a program of its own in the same machine."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress

from backends.agent.errors import GuestSilent
from backends.inside.agent_protocol import GuestEnded
from mxc_ops.channels import read_ready
from mxc_ops.hyperlight.exchange import Lost, Stopped, TimedOut
from mxc_ops.hyperlight.kept import KeptMachine
from mxc_ops.hyperlight.machine import Started
from mxc_ops.hyperlight.result import CodeResult
from mxc_ops.hyperlight.running import Marks, Taker, Wanted, as_ended, as_timed_out, concluded, takers_of
from mxc_ops.hyperlight.settings import command_for
from mxc_ops.hyperlight.turns import Ticket

__all__ = ["run_program"]


def run_program(wanted: Wanted, kept: KeptMachine, ticket: Ticket, marks: Marks) -> CodeResult:
    """Raises what starting one raises, `Stopped`, and what a taker of output raises; it has ended then."""
    machine = kept.machine(ticket)
    marks.mark("ready")
    deadline = None if wanted.timeout_s is None else time.monotonic() + wanted.timeout_s
    takers = takers_of(wanted)
    with _Pipes() as pipes:
        command = command_for(kept.blueprint, wanted.code)
        started = ticket.on_loop(machine.execute(command, None, *pipes.theirs))
        pipes.started()
        marks.mark("started")
        try:
            try:
                with ticket.talking(pipes):
                    pipes.listen(takers, deadline)
                ended = ticket.on_loop(_end_of(started, deadline))
                fields = as_ended(Lost(), ended, of="the program")
            except TimedOut:
                ticket.on_loop(_expire(started, wanted.grace_s))
                with suppress(TimedOut):
                    pipes.listen(takers, time.monotonic())
                fields = as_timed_out(wanted.timeout_s or 0.0, lost=False)
        except BaseException:
            kept.end_program(started)
            raise
    return concluded(fields, takers, marks)


async def _end_of(started: Started, deadline: float | None) -> GuestEnded | None:
    """Once its output has ended; it may go on without. Raises `TimedOut`."""
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        return await started.process.wait(deadline_s=left)
    except GuestSilent:
        raise TimedOut from None


async def _expire(started: Started, grace_s: float) -> None:
    if grace_s:
        started.signal(signal.SIGTERM)
        with suppress(GuestSilent):
            await started.process.wait(deadline_s=grace_s)
    await started.kill()


class _Pipes:
    """A program's output on its way to the thread that waits for it."""

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        pairs = (os.pipe(), os.pipe())
        self._ours = [reading for reading, _ in pairs]
        self.theirs = (pairs[0][1], pairs[1][1])
        self._their_fds = list(self.theirs)

    def __enter__(self) -> _Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (*self._ours, *self._their_fds, self._wake):
            os.close(fd)

    def started(self) -> None:
        """The program has its ends: ours of them would keep the pipes open."""
        while self._their_fds:
            os.close(self._their_fds.pop())

    def stop(self) -> None:
        os.eventfd_write(self._wake, 1)

    def listen(self, takers: tuple[Taker, Taker], deadline: float | None) -> None:
        """Hand over what comes, to the end of both. Raises `TimedOut`, `Stopped`."""
        poller = select.poll()
        by_fd = dict(zip(self._ours, takers, strict=True))
        for fd in (*by_fd, self._wake):
            os.set_blocking(fd, False)
            poller.register(fd, select.POLLIN)
        while by_fd:
            left = None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)
            ready = poller.poll(left)
            if not ready:
                raise TimedOut
            for fd, _ in ready:
                if fd == self._wake:
                    raise Stopped
                data = read_ready(fd)
                if data:
                    by_fd[fd](data)
                elif data == b"":
                    poller.unregister(fd)
                    del by_fd[fd]
