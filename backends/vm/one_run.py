"""One run in one machine, from the template to the end of the command (effectful, asyncio).

The order is what makes it safe: the clone gets its identity before anything else happens in it, the policy's
files are in place before the command starts, and nothing of a machine is used again afterwards.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Any

from backends.agent.errors import GuestError, GuestRefused
from backends.agent.identity import new_identity
from backends.agent.process import GuestProcess
from backends.base import Conflict, Ended, Handles, Outcome, Streams, Usage
from backends.errors import LaunchFailed, MxcError, Problem
from backends.frozen import replace
from backends.guest_files.archive import check_copies, put_content
from backends.guest_files.disk import build_disk
from backends.guest_files.snapshot import Snapshot
from backends.inside.agent_protocol import (
    EndedFlag,
    GuestCommand,
    GuestEnded,
    GuestHide,
    GuestMount,
    MountFlag,
)
from backends.linux import seccomp
from backends.qemu.clone import Clone
from backends.qemu.guest import Guest
from backends.qemu.off_loop import off_loop, on_thread
from backends.qemu.pools import take_clone
from backends.qemu.template_plan import GRANTS_BYTES
from backends.qemu.timings import Timings
from backends.vm.copying_back import bring_back, recovered_warnings
from backends.vm.failure import explain_full, explain_refusal
from backends.vm.guest_limits import mark_guest_hits
from backends.vm.plan import VmPlan
from backends.vm.terminal import follow_size, make_transparent, window_size

__all__ = ["OneRun"]

_START_S = 30.0


class OneRun:
    """Made on any thread; everything else happens on the loop of `start`."""

    def __init__(
        self, plan: VmPlan, handles: Handles, streams: Streams, secrets: tuple[tuple[str, str], ...]
    ) -> None:
        """`streams` and `handles` are the run's own from now on, until `close`."""
        self.pid = 0
        self.wrapping_up = False
        self._expired = False
        self.task: asyncio.Task[Ended] | None = None
        self._plan = plan
        self._handles = handles
        self._snapshots: dict[int, Snapshot] = {}
        self._warnings: list[str] = []
        self._conflicts: list[Conflict] = []
        self._streams = streams
        self._secrets = secrets
        self._timings = Timings()
        self._clone: Clone | None = None
        self._process: GuestProcess | None = None
        self._killed = asyncio.Event()

    async def start(self) -> None:
        """Everything up to the command's first instruction.

        Raises `LaunchFailed`, `PolicyRefused`, `BackendUnavailable`; nothing is left running then.
        """
        try:
            if self._plan.files.writable:
                self._warnings += await asyncio.to_thread(recovered_warnings)
            self._clone = await self._take_clone()
            guest = self._clone.guest
            self.pid = guest.machine.qemu.pid
            await guest.ask(guest.agent.identify(new_identity()))
            self._timings.mark("identified")
            await self._furnish(guest)
            self._process = await self._execute(guest)
            self._timings.mark("started")
        except BaseException:
            await self._end_machine()
            raise

    async def finish(self) -> Ended:
        """Wait for the command's end, copy files back, end the machine.

        Raises what ended the machine before its command ended.
        """
        assert self._clone is not None  # `start` has succeeded
        assert self._process is not None
        try:
            ended = await self._until_end(self._clone.guest, self._process)
            if self._process.first_output_s is not None:  # an event loop's time is the monotonic clock's
                self._timings.mark("firstByte", self._process.first_output_s)
            self._timings.mark("exit")
            self.wrapping_up = ended is not None
            normal = ended is not None and os.WIFEXITED(ended.status) and not self._expired
            if normal and self._plan.files.writable:
                await self._bring_back(self._clone.guest)
            return self._describe(ended)
        finally:
            await self._end_machine()

    async def signal(self, number: int) -> None:
        """To every process of the workload; nothing once it has ended."""
        if self._process is not None and not self._process.exited.done() and self._clone is not None:
            self._clone.guest.agent.signal_everything(number)

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

    async def _take_clone(self) -> Clone:
        plan = self._plan
        if not plan.files.read_only:
            return await take_clone(plan.template, plan.confinement, self._timings, grants=None, used_bytes=0)
        disk = await on_thread(
            lambda: build_disk(plan.files, self._handles, size_bytes=GRANTS_BYTES),
            drop=lambda built: os.close(built.fd),
        )
        self._timings.mark("diskBuilt")
        self._warnings.extend(disk.warnings)
        try:
            return await take_clone(
                plan.template, plan.confinement, self._timings, grants=disk.fd, used_bytes=disk.used_bytes
            )
        finally:
            os.close(disk.fd)

    async def _furnish(self, guest: Guest) -> None:
        """Everything that the policy shows is in its place before the command starts."""
        files = self._plan.files
        size = self._plan.limits.tmp_mib << 20
        flags = MountFlag.NO_SUID | MountFlag.NO_DEV
        for place in self._plan.limits.private:
            await guest.ask(guest.agent.mount(GuestMount(place, "", "tmpfs", flags, size)))
        if files.writable:
            await on_thread(lambda: check_copies(files, self._handles))
        for step in files.guest_steps:
            if isinstance(step, GuestHide):
                await guest.ask(guest.agent.hide(step))
            elif isinstance(step, GuestMount):
                await guest.ask(guest.agent.mount(step))
            else:
                content = put_content(files, step, self._handles, self._snapshots)
                try:
                    await guest.ask(guest.agent.put(step.files, off_loop(content)))
                except LaunchFailed as failure:
                    raise explain_full(self._plan, step, failure) from failure.__cause__
        if files.guest_steps:
            self._timings.mark("filesIn")

    async def _execute(self, guest: Guest) -> GuestProcess:
        streams = self._streams
        if streams.tty:
            make_transparent(streams.stdin)
        command = self._command()
        try:
            return await guest.machine.guard(
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

    async def _until_end(self, guest: Guest, process: GuestProcess) -> GuestEnded | None:
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
                Outcome.KILLED, 137, 9, Usage(wall_ms), limits, timings, warnings=tuple(self._warnings)
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
            conflicts=tuple(self._conflicts),
            warnings=tuple(self._warnings),
        )

    async def _bring_back(self, guest: Guest) -> None:
        size = self._plan.file_size_mib
        conflicts, warnings = await bring_back(guest, self._plan.files, self._snapshots, self._handles, size)
        self._conflicts += conflicts
        self._warnings += warnings
        self._timings.mark("filesBack")

    async def _end_machine(self) -> None:
        if self._clone is not None:
            clone, self._clone = self._clone, None
            await clone.end()
