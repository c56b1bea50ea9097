"""One run in one machine, from the template to the end of the command (effectful, asyncio).

Nothing of a machine is used again after its command has ended.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from backends.agent.errors import GuestError, GuestRefused
from backends.agent.process import GuestProcess
from backends.base import Handles, Streams
from backends.ended import Conflict, Ended, Outcome, Usage
from backends.errors import LaunchFailed, MxcError, Problem
from backends.frozen import replace
from backends.inside.agent_protocol import (
    EndedFlag,
    GuestCommand,
    GuestEnded,
)
from backends.linux import seccomp
from backends.qemu.guest import WithAgent
from backends.qemu.timings import Timings
from backends.vm.failure import explain_refusal
from backends.vm.furnished import FurnishedMachine
from backends.vm.guest_limits import mark_guest_hits
from backends.vm.plan import VmPlan
from backends.vm.terminal import follow_size, make_transparent, window_size

if TYPE_CHECKING:
    from backends.network.outcome import NetworkOutcome

__all__ = ["Furnished", "OneRun"]

_START_S = 30.0


class Furnished(Protocol):
    """See `FurnishedMachine`: what a run needs of it, or of what stands for it."""

    pid: int
    warnings: list[str]
    conflicts: list[Conflict]
    network: NetworkOutcome | None

    @property
    def guest(self) -> WithAgent: ...

    @property
    def is_there(self) -> bool: ...

    async def start(self) -> None: ...

    async def bring_back(self) -> None: ...

    async def end(self) -> None: ...


class OneRun:
    """Made on any thread; everything else happens on the loop of `start`."""

    def __init__(
        self,
        plan: VmPlan,
        handles: Handles,
        streams: Streams,
        secrets: tuple[tuple[str, str], ...],
        furnished: Callable[[VmPlan, Handles, Timings], Furnished] = FurnishedMachine,
    ) -> None:
        """`streams` and `handles` are the run's own from now on, until `close`.

        Parameters
        ----------
        furnished: makes what the command runs in.
        """
        self.pid = 0
        self.wrapping_up = False
        self._expired = False
        self.task: asyncio.Task[Ended] | None = None
        self._plan = plan
        self._handles = handles
        self._streams = streams
        self._secrets = secrets
        self._timings = Timings()
        self._machine = furnished(plan, handles, self._timings)
        self._process: GuestProcess | None = None
        self._killed = asyncio.Event()

    async def start(self) -> None:
        """Everything up to the command's first instruction.

        Raises `LaunchFailed`, `PolicyRefused`, `BackendUnavailable`; nothing is left running then.
        """
        try:
            await self._machine.start()
            self.pid = self._machine.pid
            self._process = await self._execute(self._machine.guest)
            self._timings.mark("started")
        except BaseException:
            await self._machine.end()
            raise

    async def finish(self) -> Ended:
        """Wait for the command's end, copy files back, end the machine.

        Raises what ended the machine before its command ended.
        """
        assert self._process is not None  # `start` has succeeded
        try:
            ended = await self._until_end(self._machine.guest, self._process)
            if self._process.first_output_s is not None:  # an event loop's time is the monotonic clock's
                self._timings.mark("firstByte", self._process.first_output_s)
            self._timings.mark("exit")
            self.wrapping_up = ended is not None
            normal = ended is not None and os.WIFEXITED(ended.status) and not self._expired
            if normal and self._plan.files.writable:
                await self._machine.bring_back()
            done = self._describe(ended)
        finally:
            await self._machine.end()
        return replace(done, network=self._machine.network)

    async def signal(self, number: int) -> None:
        """To every process of the workload; nothing once it has ended."""
        if self._process is not None and not self._process.exited.done() and self._machine.is_there:
            self._machine.guest.agent.signal_everything(number)

    async def expire(self, number: int) -> None:
        """The same, and nothing is copied back any more."""
        self._expired = not self.wrapping_up
        await self.signal(number)

    async def kill(self) -> None:
        """End the machine with everything in it."""
        self._killed.set()

    async def abandon(self) -> None:
        """Give up, at whatever point it is, and return when nothing is left."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait({self.task})

    def close(self) -> None:
        self._handles.close()
        for fd in {self._streams.stdin, self._streams.stdout, self._streams.stderr}:
            os.close(fd)

    async def _execute(self, guest: WithAgent) -> GuestProcess:
        streams = self._streams
        if streams.tty:
            make_transparent(streams.stdin)
        command = self._command()
        try:
            return await guest.guard(
                guest.agent.execute(
                    command,
                    stdin=streams.stdin,
                    stdout=streams.stdout,
                    stderr=streams.stderr,
                    deadline_s=_START_S,
                )
            )
        except GuestRefused as refusal:
            raise explain_refusal(self._plan, refusal) from refusal
        except (GuestError, ValueError) as error:
            raise LaunchFailed(Problem("command_not_started", "", str(error))) from error

    def _command(self) -> GuestCommand:
        plan = self._plan
        return replace(
            plan.command,
            env=plan.command.env + self._secrets,
            seccomp=seccomp.program(plan.seccomp),
            tty=window_size(self._streams.stdin) if self._streams.tty else None,
        )

    async def _until_end(self, guest: WithAgent, process: GuestProcess) -> GuestEnded | None:
        """None when the machine was killed on the caller's wish."""
        waiting = asyncio.ensure_future(guest.ask(process.wait()))
        killed = asyncio.ensure_future(self._killed.wait())
        tasks: list[asyncio.Future[Any]] = [waiting, killed]
        if self._streams.tty:
            tasks.append(asyncio.ensure_future(follow_size(self._streams.stdin, process)))
        try:
            await asyncio.wait({waiting, killed}, return_when=asyncio.FIRST_COMPLETED)
            return waiting.result() if waiting.done() else None
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError, MxcError):
                    await task

    def _describe(self, ended: GuestEnded | None) -> Ended:
        timings = self._timings.as_pairs()
        wall_ms = dict(timings)["exit"] - dict(timings)["started"]
        outcomes = self._plan.limits.outcomes
        if ended is None:
            limits = mark_guest_hits(outcomes, EndedFlag(0), None)
            return Ended(
                Outcome.KILLED,
                137,
                9,
                Usage(wall_ms),
                limits,
                timings,
                warnings=tuple(self._machine.warnings),
            )
        code = os.waitstatus_to_exitcode(ended.status)
        ended_by = -code if code < 0 else None
        return Ended(
            outcome=Outcome.EXITED if ended_by is None else Outcome.SIGNALLED,
            exit_code=code if ended_by is None else 128 + ended_by,
            signal=ended_by,
            usage=Usage(wall_ms, ended.user_us / 1000, ended.system_us / 1000, ended.max_rss_kib),
            limits=mark_guest_hits(outcomes, ended.flags, ended_by),
            timings=timings,
            conflicts=tuple(self._machine.conflicts),
            warnings=tuple(self._machine.warnings),
        )
