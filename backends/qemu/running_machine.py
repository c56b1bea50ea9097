"""One QEMU that runs: its process, its monitor, its console, the socket to its agent (effectful, asyncio)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from backends.errors import LaunchFailed, MxcError, Problem
from backends.qemu.confined import ConfinedQemu
from backends.qemu.confinement import Confinement
from backends.qemu.console import Console
from backends.qemu.machine import Machine, Part, arguments
from backends.qemu.monitor import Monitor, MonitorLost, MonitorRefused, MonitorSilent
from backends.qemu.timings import Timings

__all__ = ["RunningMachine"]

_MONITOR_S = 10.0
_END_S = 5.0
_Answer = TypeVar("_Answer")


class RunningMachine:
    """Made by `start`; belongs to the loop that it was started on. `end` it in every case.

    `agent` is our end of the agent's channel, for whoever talks to the guest.
    """

    def __init__(self, qemu: ConfinedQemu, agent: socket.socket, console: Console) -> None:
        self.qemu = qemu
        self.agent = agent
        self.console = console
        self.monitor: Monitor | None = None
        self._loop = asyncio.get_running_loop()
        self._gone: asyncio.Future[str] = self._loop.create_future()
        self._loop.add_reader(qemu.pidfd, self._collect)

    @classmethod
    async def start(
        cls,
        machine: Machine,
        confinement: Confinement,
        descriptors: Mapping[str, int],
        timings: Timings | None = None,
        owners: Sequence[int] = (),
    ) -> RunningMachine:
        """Start QEMU and connect to its monitor.

        Parameters
        ----------
        descriptors: of every part and disk that is no channel, by name; they stay the caller's to close.
        owners: see `ConfinedQemu`.

        Raises `LaunchFailed`, with what QEMU and the guest's console said.
        """
        names = (Part.MONITOR.value, Part.AGENT.value, Part.CONSOLE.value)
        pairs = [socket.socketpair() for _ in names]
        try:
            fds = {
                **descriptors,
                **{name: theirs.fileno() for name, (_, theirs) in zip(names, pairs, strict=True)},
            }
            argv = arguments(machine, fds)
            given = tuple(sorted(fds.values()))
            qemu = ConfinedQemu(confinement, machine.accelerator, argv, given, owners)
        except BaseException:
            for ours, _ in pairs:
                ours.close()
            raise
        finally:
            for _, theirs in pairs:
                theirs.close()
        (monitor, _), (agent, _), (console, _) = pairs
        if timings is not None:
            timings.mark("spawned")
        running = cls(qemu, agent, Console(console))
        try:
            running.monitor = await running.guard(Monitor.open(monitor, deadline_s=_MONITOR_S))
        except BaseException:
            await running.end()
            raise
        return running

    async def guard(self, work: Awaitable[_Answer]) -> _Answer:
        """Await `work` while QEMU lives.

        Raises `LaunchFailed` at once when QEMU ends, and for what the monitor refuses or does not answer.
        """
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._gone}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await _cancelled(task)
            raise
        if not task.done():
            await _cancelled(task)
            raise self.ended_error()
        try:
            return task.result()
        except MonitorLost as error:
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._gone), _END_S)
            raise self.ended_error() from error
        except (MonitorRefused, MonitorSilent) as error:
            raise LaunchFailed(Problem("qemu_refused", "", str(error))) from error

    async def hand_over(self, fd: int, name: str) -> None:
        """Give QEMU a descriptor that monitor commands can name."""
        assert self.monitor is not None  # `start` connects before it answers
        await self.guard(self.monitor.hand_over(fd, name))

    async def hand_over_file(self, fd: int, number: int) -> None:
        """Give QEMU a descriptor that it can open as ``/dev/fdset/NUMBER``."""
        assert self.monitor is not None  # `start` connects before it answers
        await self.guard(self.monitor.hand_over_file(fd, number))

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """A monitor command under `guard`."""
        assert self.monitor is not None  # `start` connects before it answers
        return await self.guard(self.monitor.execute(command, arguments))

    @property
    def is_gone(self) -> bool:
        return self._gone.done()

    async def wait_gone(self) -> str:
        """Wait until QEMU and its confinement are gone; answers QEMU's last words."""
        return await asyncio.shield(self._gone)

    def ended_error(self) -> MxcError:
        """QEMU's end, as one error with everything that is known about it."""
        words = self._gone.result() if self._gone.done() else ""
        said = f": {words}" if words else ""
        seen = self.console.last_lines()
        guest = f"; the guest's console ends with: {seen}" if seen else ""
        return LaunchFailed(Problem("qemu_ended", "", f"the virtual machine ended unexpectedly{said}{guest}"))

    async def end(self) -> None:
        """Kill QEMU if it still runs, wait until it is gone, give everything back. Idempotent."""
        for _ in range(2):
            if self._gone.done():
                break
            self.qemu.kill()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._gone), _END_S)
        if self.monitor is not None:
            await self.monitor.close()
            self.monitor = None
        self.agent.close()
        self.console.close()

    def _collect(self) -> None:
        self._loop.remove_reader(self.qemu.pidfd)
        self._gone.set_result(self.qemu.collect())


async def _cancelled(task: asyncio.Future[_Answer]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
