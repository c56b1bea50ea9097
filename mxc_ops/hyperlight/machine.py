"""The machine that an object's code runs in, with its interpreter (effectful, asyncio).

It is a clone of a template, or goes on from a copy of one; its interpreter is one program of its agent.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import stat

from backends.agent.errors import GuestError, GuestRefused
from backends.agent.files import Download
from backends.agent.inherited import take_over
from backends.agent.process import GuestProcess, Standing
from backends.agent.relay import Relay
from backends.base import Handles
from backends.errors import LaunchFailed, Problem
from backends.frozen import frozen, replace
from backends.guest_etc import INSIDE_ID
from backends.guest_files.tar_writer import END, Member, header
from backends.inside.agent_protocol import GuestCommand, GuestEnded, GuestFiles, GuestMount, MountFlag
from backends.network.for_plans import kept
from backends.qemu.timings import Timings
from backends.vm.failure import explain_refusal
from backends.vm.furnished import FurnishedMachine, Original
from backends.vm.plan import VmPlan

__all__ = ["Blueprint", "CodeMachine", "Copy", "Started"]

_START_S = 30.0
_KILL_S = 10.0
_QUIET_S = 10.0
_MOST_WORDS = 4096
_OURS = (INSIDE_ID, INSIDE_ID)


@frozen
class Blueprint:
    """All that the machines of an object are made from.

    `command` takes source, and has secrets in its environment. `folder` is where the workload may put what
    comes back, `folder_bytes` what it may hold.
    """

    plan: VmPlan
    command: GuestCommand
    folder: str
    folder_bytes: int

    def __repr__(self) -> str:
        return f"Blueprint({self.plan!r}, {self.folder!r})"


@frozen
class Copy:
    """A machine as it was, and its interpreter if it had one. `close` it in every case."""

    original: Original
    standing: Standing | None

    def close(self) -> None:
        self.original.close()


class Started:
    """A program in the machine; `words` are the last that it said where nobody reads its errors."""

    def __init__(self, process: GuestProcess, words: bytearray) -> None:
        self.process = process
        self.words = words

    def signal(self, number: int) -> None:
        self.process.signal(number)

    async def ended(self) -> GuestEnded | None:
        """How it ended, once it has: None when the machine was lost, or it does not end."""
        try:
            return await self.process.wait(deadline_s=_KILL_S)
        except GuestError:
            return None

    async def kill(self) -> bool:
        """With all that it has started; False when something of it may still be there."""
        self.process.signal(signal.SIGKILL, last=True)
        ended = await self.ended()
        self.process.discard()
        return ended is not None


class CodeMachine:
    """Made on any thread; everything else happens on the loop of `start`. `end` it in every case."""

    def __init__(self, blueprint: Blueprint, handles: Handles) -> None:
        """`handles` stay the caller's, and open until the end."""
        self._blueprint = blueprint
        self._handles = handles
        self._machine: FurnishedMachine | None = None
        self._relay: Relay | None = None

    async def start(self, copy: Copy | None = None) -> None:
        """Raises what a run raises before its command starts; nothing is left then."""
        plan = replace(self._blueprint.plan, network=kept(self._blueprint.plan.network))
        original = None if copy is None else copy.original
        machine = FurnishedMachine(plan, self._handles, Timings(), original=original)
        try:
            await machine.start()
            if copy is None:
                await self._make_folder(machine)
        except BaseException:
            await machine.end()
            raise
        self._machine = machine
        self._relay = Relay(machine.guest.agent.link, machine.guest.agent.welcome)

    async def _make_folder(self, machine: FurnishedMachine) -> None:
        blueprint, guest = self._blueprint, machine.guest
        flags = MountFlag.NO_SUID | MountFlag.NO_DEV
        mount = GuestMount(blueprint.folder, "", "tmpfs", flags, blueprint.folder_bytes)
        await guest.ask(guest.agent.mount(mount))
        top = header(Member(".", stat.S_IFDIR | 0o755, _OURS)) + END
        await guest.ask(guest.agent.put(GuestFiles(blueprint.folder, owner=_OURS, replace=True), [top]))

    @property
    def is_lost(self) -> bool:
        """Whether there is none, or its agent has gone."""
        return self._machine is None or self._machine.guest.agent.lost.done()

    @property
    def warnings(self) -> tuple[str, ...]:
        return () if self._machine is None else tuple(self._machine.warnings)

    def loss(self) -> LaunchFailed:
        why = ""
        if self._machine is not None and self._machine.guest.agent.lost.done():
            why = f": {self._machine.guest.agent.lost.result().reason}"
        return LaunchFailed(
            Problem(
                "machine_lost",
                "",
                f"the machine has ended, with all that was in it{why}",
                fix="restart() for an empty one, or restore(snapshot)",
            ),
            retryable=True,
        )

    async def execute(
        self, command: GuestCommand, stdin: int | None, stdout: int, stderr: int | None
    ) -> Started:
        """Start a program; descriptors stay the caller's. Raises `LaunchFailed`, `PolicyRefused`."""
        guest = self._there().guest
        words = bytearray()

        def note(data: memoryview) -> None:
            words.extend(data)
            del words[:-_MOST_WORDS]

        try:
            process = await guest.machine.guard(
                guest.agent.execute(
                    command,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=note if stderr is None else stderr,
                    deadline_s=_START_S,
                )
            )
        except GuestRefused as refusal:
            raise explain_refusal(self._blueprint.plan, refusal) from refusal
        except (GuestError, ValueError) as error:
            raise LaunchFailed(Problem("command_not_started", "", str(error))) from error
        return Started(process, words)

    async def start_interpreter(self, command: GuestCommand, theirs: socket.socket) -> Started:
        """One that talks over a socket, whose end stays the caller's."""
        return await self.execute(command, theirs.fileno(), theirs.fileno(), None)

    async def take_interpreter(self, standing: Standing, theirs: socket.socket) -> Started:
        """The one that the machine had when it was copied. Raises `LaunchFailed`."""
        fd = theirs.fileno()
        words = bytearray()
        try:
            agent = self._there().guest.agent
            return Started(take_over(agent, standing, stdin=fd, stdout=fd, stderr=words.extend), words)
        except GuestError as error:
            raise self.loss() from error

    async def copy(self, interpreter: Started | None) -> Copy:
        """Of the machine as it is, which goes on. Raises `LaunchFailed`."""
        machine, relay = self._there(), self._relay
        assert relay is not None  # with its machine
        running = interpreter if interpreter and not interpreter.process.exited.done() else None
        try:
            await relay.hush()
            try:
                if running is not None:
                    await self._come_to_rest(running.process)
                processes = () if running is None else (running.process,)
                original = await machine.copy(go_on=True, kept=processes)
            finally:
                relay.speak()
        except TimeoutError as error:
            message = "the interpreter does not come to rest: something that it has started still talks"
            fix = "end what runs in the background, and snapshot() again"
            raise LaunchFailed(Problem("not_at_rest", "", message, fix=fix), retryable=True) from error
        except GuestError as error:
            raise self.loss() from error
        return Copy(original, next(iter(original.conversation.kept), None))

    async def _come_to_rest(self, process: GuestProcess) -> None:
        """Have nothing of it on its way. Raises `TimeoutError`, `GuestLost`."""
        agent = self._there().guest.agent
        async with asyncio.timeout(_QUIET_S):
            while True:
                before = process.standing
                await agent.ping()
                if process.standing == before:
                    return

    async def download(self, files: GuestFiles) -> tuple[Download, asyncio.AbstractEventLoop]:
        """An archive, for `from_loop`."""
        return self._there().guest.agent.get(files), asyncio.get_running_loop()

    async def serve(self, sock: socket.socket) -> None:
        """Let somebody talk with the agent about files."""
        assert self._relay is not None  # with its machine
        self._relay.serve(sock)

    async def bring_back(self) -> None:
        """See `FurnishedMachine.bring_back`."""
        await self._there().bring_back()

    async def end(self) -> None:
        machine, self._machine, self._relay = self._machine, None, None
        if machine is not None:
            await machine.end()

    def _there(self) -> FurnishedMachine:
        if self.is_lost:
            raise self.loss()
        assert self._machine is not None
        return self._machine
