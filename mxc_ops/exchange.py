"""Carry a run's streams in the calling thread, without helpers, until the sandbox is gone."""

from __future__ import annotations

import math
import select
from collections.abc import Iterator, Sequence
from contextlib import suppress

from backends.base import Running
from backends.ended import Ended
from backends.errors import MxcError
from mxc_ops.channels import Channel
from mxc_ops.deadline import KILL_PATIENCE_S, Deadline, unkillable


def exchange(running: Running, channels: Sequence[Channel], deadline: Deadline) -> Ended:
    """Move data until the sandbox with every process in it is gone; enforce the deadline on the way.

    The end of the sandbox decides, not the end of a stream: a descriptor that a fork of the caller inherited
    cannot hold the run open. When this raises (a callback's error, KeyboardInterrupt), the sandbox still
    runs: the caller owns it and has to `stop` it.
    """
    for _ in turns(running, channels, deadline):
        pass
    return wait_for_end(running)


def stop(running: Running) -> None:
    """Kill the sandbox and wait until it is gone; how it ended, or failed to start, no longer matters."""
    running.kill()
    with suppress(MxcError):
        wait_for_end(running)


def wait_for_end(running: Running) -> Ended:
    """The end of a sandbox whose processes are gone or about to be; raises `LaunchFailed` when they stay."""
    ended = running.wait(KILL_PATIENCE_S)
    if ended is None:
        raise unkillable()
    return ended


def turns(running: Running, channels: Sequence[Channel], deadline: Deadline) -> Iterator[None]:
    """The same, handing over after every turn: for callers that pass on what has arrived."""
    end = running.pidfd
    poller = select.poll()
    poller.register(end, select.POLLIN)
    watched: dict[int, Channel] = {}
    for channel in channels:
        watched[channel.fd] = channel
        poller.register(channel.fd, channel.events)
    over = False
    while not over:
        remaining_s = deadline.remaining_s()
        for fd, _ in poller.poll(None if remaining_s is None else math.ceil(remaining_s * 1000)):
            if fd == end:
                over = True
            elif fd in watched:
                _step(poller, watched, fd)
        if not over:
            deadline.enforce(running)
        yield
    for channel in channels:
        if channel.fd >= 0:
            channel.drain()
    yield


def _step(poller: select.poll, watched: dict[int, Channel], fd: int) -> None:
    channel = watched[fd]
    events = channel.events
    if not channel.step():
        poller.unregister(fd)
        del watched[fd]
        channel.close()
    elif (channel.fd, channel.events) != (fd, events):
        poller.unregister(fd)
        del watched[fd]
        watched[channel.fd] = channel
        poller.register(channel.fd, channel.events)
