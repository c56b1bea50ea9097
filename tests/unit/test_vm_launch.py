"""A run in a virtual machine, and whoever waits for it or has given up."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from backends.base import Streams
from backends.ended import Ended, Outcome, Usage
from backends.errors import LaunchFailed
from backends.qemu import loop_running
from backends.qemu.loop_thread import submit
from backends.vm import launch as launching
from backends.vm.plan import VmPlan
from tests.unit.machines import NoHandles


class SlowRun:
    """Ends when it is told to, as one that is copying files back: no kill hastens it."""

    pid = 1
    wrapping_up = True
    refused: OSError | None = None

    def __init__(self, plan: VmPlan, handles: Any, streams: Streams, secrets: Any, furnished: Any) -> None:
        self.task: asyncio.Task[Ended] | None = None
        self.over = asyncio.Event()
        self._streams = streams
        SlowRun.last = self

    async def start(self) -> None:
        if self.refused is not None:
            raise self.refused

    async def finish(self) -> Ended:
        await self.over.wait()
        return Ended(Outcome.EXITED, 0, None, Usage())

    async def kill(self) -> None: ...

    async def abandon(self) -> None: ...

    def close(self) -> None:
        for fd in (self._streams.stdin, self._streams.stdout, self._streams.stderr):
            os.close(fd)

    async def end(self) -> None:
        self.over.set()
        assert self.task is not None
        await self.task
        await asyncio.sleep(0)

    last: SlowRun


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(launching, "OneRun", SlowRun)
    null = os.open(os.devnull, os.O_RDWR)
    plan: Any = SimpleNamespace(files=SimpleNamespace(read_only=(), writable=()))
    yield lambda: launching.launch(plan, NoHandles(), Streams(null, null, null), ())
    os.close(null)


def test_the_end_of_a_run_that_was_given_up_is_told_to_nobody_else(
    started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is told on was closed, and its number is another's by then."""
    monkeypatch.setattr(loop_running, "_ABANDONED_DEADLINE_S", 0.05)
    machine = started()
    run, number = SlowRun.last, machine.pidfd
    del machine
    gc.collect()
    others = os.memfd_create("others")
    os.dup2(others, number)
    try:
        submit(run.end()).result(10)
        assert os.pread(others, 100, 0) == b""
    finally:
        for fd in {number, others}:
            os.close(fd)


def test_what_the_host_refuses_is_an_error_of_ours(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowRun, "refused", OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
    with pytest.raises(LaunchFailed, match="Too many open files"):
        started()


def test_nothing_is_kept_when_the_host_has_no_descriptors_left(started: Any) -> None:
    """However many of those that a run takes before it starts may still be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 64, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        for spare in range(1, 6):
            with pytest.raises(LaunchFailed, match="Too many open files") as caught:
                started()
            assert caught.value.problems[0].fix == "ulimit -n $(ulimit -Hn)"
            os.close(taken.pop())
            free = [os.dup(taken[0]) for _ in range(spare)]
            for fd in free:
                os.close(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
