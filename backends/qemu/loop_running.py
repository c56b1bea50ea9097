"""A command that runs on the loop of machines and agents, for callers on any thread: signals, and its end."""

from __future__ import annotations

import os
import select
from concurrent.futures import Future
from contextlib import suppress
from typing import Protocol

from backends.ended import Ended
from backends.errors import MxcError
from backends.qemu.loop_thread import submit

__all__ = ["LoopRunning", "OnLoop"]

_ABANDONED_DEADLINE_S = 5.0


class OnLoop(Protocol):
    """What runs there; its methods are called there."""

    @property
    def pid(self) -> int: ...

    @property
    def wrapping_up(self) -> bool: ...

    async def signal(self, number: int) -> None: ...

    async def expire(self, number: int) -> None: ...

    async def kill(self) -> None: ...


class LoopRunning:
    """See `backends.base.Running`. `pidfd`, which is ours, is readable once nothing is left to be done."""

    def __init__(self, run: OnLoop, end: Future[Ended], gone: int) -> None:
        self._run = run
        self._end = end
        self._gone = gone
        self._owner = os.getpid()

    @property
    def pid(self) -> int:
        return self._run.pid

    @property
    def pidfd(self) -> int:
        return self._gone

    @property
    def wrapping_up(self) -> bool:
        return self._run.wrapping_up

    def signal(self, signal_number: int) -> None:
        submit(self._run.signal(signal_number))

    def expire(self, signal_number: int) -> None:
        submit(self._run.expire(signal_number))

    def kill(self) -> None:
        submit(self._run.kill())

    def wait(self, timeout_s: float | None = None) -> Ended | None:
        """See `backends.base.Running.wait`. Raises what ended the sandbox before the command ended."""
        poller = select.poll()
        poller.register(self._gone, select.POLLIN)
        if not poller.poll(None if timeout_s is None else max(0.0, timeout_s * 1000)):
            return None
        return self._end.result()

    def __del__(self) -> None:
        # Dropped without waiting: what it stands for must not outlive it. A fork's copy ends nothing.
        if os.getpid() == self._owner and not self._end.done():
            self.kill()
            with suppress(MxcError):
                self.wait(_ABANDONED_DEADLINE_S)
        os.close(self._gone)
