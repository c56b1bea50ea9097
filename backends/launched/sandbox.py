"""A sandbox of the launcher's that runs an agent: for sessions (effectful, asyncio)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from backends.agent.connection import ask_ping
from backends.agent.errors import GuestError, GuestLost, GuestSilent
from backends.agent.relay import Relay
from backends.base import Handles, Streams
from backends.errors import LaunchFailed, MxcError, Problem
from backends.frozen import replace
from backends.guest_etc import INSIDE_ID
from backends.guest_files.beneath import open_beneath
from backends.inside.agent_protocol import GuestCommand
from backends.launched.agent_program import require_agent
from backends.launched.mark_room import require_mark_room
from backends.launched.parts import LaunchedPlan
from backends.launched.private_files import pack
from backends.launched.private_restore import restore
from backends.launched.running import LaunchedRunning
from backends.launched.standstill import Standstill, children
from backends.linux.limits import LimitPlan, of_commands, with_agent
from backends.network.for_plans import kept, proxy_variables
from backends.pathnames import within
from backends.qemu.off_loop import on_thread
from backends.sessions import Copied, Scope, Settled

if TYPE_CHECKING:
    from backends.network.opening import Network

__all__ = ["AgentSandbox", "imposed", "start_agent"]

_AGENT_S = 15.0
_LOOK_S = 1.0
_ANSWER_S = 5.0
_ANSWER_OF_SHARE_S = 0.5
_END_S = 5.0
_AGAIN_S = 0.5
_GIVEN_UP_S = 2.0
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
Plan = TypeVar("Plan", bound=LaunchedPlan)
Launch = Callable[[Plan, Handles, Streams, tuple[tuple[str, str], ...], tuple[int, ...]], LaunchedRunning]


class AgentSandbox:
    """A `backends.sessions.SessionSandbox`; belongs to the loop that it was made on."""

    def __init__(self, plan: LaunchedPlan, running: LaunchedRunning, agent: socket.socket) -> None:
        grants = [grant.path for grant in plan.grants]
        self._private = tuple(
            path for path in plan.writable_trees if not any(within(path, grant) for grant in grants)
        )
        self._scope = Scope(self._private, tuple(grants), ("no process is copied",))
        self._running = running
        self._answers_in_s = _answers_in_s(plan.limits)
        self._agent = agent
        self._relay: Relay | None = None
        self._watch: asyncio.Task[None] | None = None
        self._left = asyncio.Event()
        self._suspended: tuple[Standstill, asyncio.Task[None]] | None = None
        asyncio.get_running_loop().add_reader(running.pidfd, self._ended)

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def network(self) -> Network | None:
        return self._running.network

    async def relay(self) -> Relay:
        if self._relay is None:
            self._relay = await self._open()
            self._watch = asyncio.create_task(self._watch_agent(self._relay))
        return self._relay

    async def _open(self) -> Relay:
        try:
            return await Relay.open(self._agent, deadline_s=_AGENT_S)
        except GuestError as error:
            with suppress(TimeoutError):  # it tells what is wrong, unless it is killed first
                await asyncio.wait_for(self._left.wait(), _GIVEN_UP_S)
            if not self._left.is_set():
                await self.end()
            await self.gone()  # which raises what kept it from being set up
            raise LaunchFailed(Problem("agent_silent", "", f"the sandbox's agent: {error}")) from error

    async def gone(self) -> str:
        await self._left.wait()
        ended = self._running.wait(_GIVEN_UP_S)
        return "it left without a word" if ended is None else f"its agent {ended.outcome.value}"

    async def _watch_agent(self, relay: Relay) -> None:
        """The agent is what ends commands, and has no more rights than they: a sandbox in which something
        holds it up is ended instead."""
        with suppress(GuestLost):  # then all of it ends
            while True:
                await asyncio.sleep(_LOOK_S)
                if not relay.busy:
                    continue
                try:
                    await ask_ping(relay.link, deadline_s=self._answers_in_s)
                except GuestSilent as silent:
                    relay.link.lose(f"something in the sandbox holds it up: {silent}")

    async def suspend(self, relay: Relay) -> None:
        if self._suspended is not None:
            return
        await relay.hush()
        try:
            still = await on_thread(lambda: self._standstill().enter(), drop=Standstill.leave)
            relay.refusing = "it is suspended"
        finally:
            relay.speak()  # commands may be ended meanwhile, by their timeouts and by whoever has gone
        self._suspended = still, asyncio.create_task(_keep_still(still))

    async def resume(self, relay: Relay) -> None:
        if self._suspended is not None:
            still, keeping = self._suspended
            keeping.cancel()
            await asyncio.wait({keeping})
            await on_thread(still.leave)
            self._suspended = None
            relay.refusing = ""

    async def copy(self, relay: Relay) -> Copied:
        stands = self._suspended is not None
        if not stands:
            await relay.hush()
        try:
            file, sockets = await on_thread(self._packed, drop=lambda packed: os.close(packed[0]))
        finally:
            if not stands:
                relay.speak()
        notes = (
            (*self._scope.notes, f"sockets that are not copied: {sockets}") if sockets else self._scope.notes
        )
        return Copied({"private": file}, {"scope": replace(self._scope, notes=notes).as_dict()})

    async def restore(self, copied: Copied) -> None:
        """Give it the private files of a copy, before anybody is served. Raises what `relay` does."""
        relay = await self.relay()
        try:
            await on_thread(lambda: self._restored(copied.fds["private"]))
        except BaseException:
            relay.close()
            await self.end()
            raise

    def _packed(self) -> tuple[int, int]:
        """While it is suspended, everything stands still already: then there is nobody else to stop."""
        with self._trees(_first_child(self._running.pid)) as (trees, user), self._standstill():
            return pack(trees, user[0])

    def _standstill(self) -> Standstill:
        init = _first_child(self._running.pid)
        return Standstill(init, _first_child(init))

    def _restored(self, file: int) -> None:
        with self._trees(_first_child(self._running.pid)) as (trees, user):
            restore(file, trees, user)

    @contextmanager
    def _trees(self, init: int) -> Generator[tuple[list[tuple[str, int]], tuple[int, int]]]:
        """(path inside, its folder) of each private tree, and the workload's (uid, gid) on the host."""
        root = os.open(f"/proc/{init}/root", _FOLDER)
        trees: list[tuple[str, int]] = []
        try:
            trees.extend((path, open_beneath(root, path[1:])) for path in self._private)
            yield trees, _host_ids(_first_child(init))
        finally:
            for descriptor in (root, *(folder for _, folder in trees)):
                os.close(descriptor)

    async def settle(self, relay: Relay) -> Settled:  # noqa: ARG002 - what it wrote is where it belongs
        return Settled()

    async def end(self) -> None:
        for task in (self._watch, self._suspended and self._suspended[1]):
            if task is not None:
                task.cancel()
        while not self._left.is_set():  # all but the first time are for a process 1 that does not obey
            self._running.kill()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), _END_S)
        with suppress(MxcError):  # why it could not be set up is `gone`'s to tell
            await on_thread(lambda: self._running.wait(_GIVEN_UP_S))

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._running.pidfd)
        self._left.set()


async def _keep_still(still: Standstill) -> None:
    """Until it is cancelled."""
    while True:
        await asyncio.sleep(_AGAIN_S)
        await on_thread(still.again)


def _first_child(pid: int) -> int:
    """Raises `ProcessLookupError`."""
    for child in children(pid):
        return child
    raise ProcessLookupError(pid)


def _answers_in_s(limits: LimitPlan) -> float:
    """An agent has its turn among all that runs there, of the share of the processors that they have."""
    share = next((limit.value for limit in limits.outcomes if limit.name == "cpus"), 1.0)
    return max(_ANSWER_S, _ANSWER_OF_SHARE_S / share)


def _host_ids(pid: int) -> tuple[int, int]:
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["Uid"].split()[-1]), int(fields["Gid"].split()[-1])


async def start_agent(
    plan: Plan, handles: Handles, launch: Launch[Plan], copied: Copied | None, backend: str
) -> AgentSandbox:
    """Start the plan's sandbox with an agent as its workload, under everything that the plan holds.

    Parameters
    ----------
    plan: of one run; its command is not run.
    launch: the backend's own.
    copied: whose private files it has; the descriptors stay the caller's.
    backend: its name, for the fix.

    Raises what `launch` raises, `BackendUnavailable` without the agent, `LaunchFailed` where our own limits
    are too low for it.
    """
    require_mark_room()
    program = require_agent(backend)
    ours, theirs = socket.socketpair()
    # Executed through its descriptor: no path of it is needed, or visible, inside, and no rule is in its way.
    agent = os.memfd_create("agent", os.MFD_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        with open(program, "rb") as file:
            os.write(agent, file.read())
        argv = (f"/proc/self/fd/{agent}", str(theirs.fileno()))
        limits = with_agent(plan.limits)
        alone = replace(plan, argv=argv, environment=(), secret_names=(), cwd="/", tty=False, limits=limits)
        alone = replace(alone, network=kept(plan.network))
        running = launch(alone, handles, Streams(null, null, null), (), (agent, theirs.fileno()))
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(agent)
        os.close(null)
        theirs.close()
    sandbox = AgentSandbox(plan, running, ours)
    if copied is not None:
        await sandbox.restore(copied)
    return sandbox


def imposed(plan: LaunchedPlan) -> GuestCommand:
    """On each command: the agent is under the sandbox's restrictions itself, and so is all that it starts,
    but for the limits that are each command's own, and for the variables of a proxy."""
    env = proxy_variables(plan.network, plan.environment)
    return GuestCommand((), env=env, user=(INSIDE_ID, INSIDE_ID), rlimits=of_commands(plan.limits))
