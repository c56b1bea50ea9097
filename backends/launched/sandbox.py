"""A sandbox of the launcher's that runs an agent: for sessions (effectful, asyncio)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import TypeVar

from backends.agent.errors import GuestError
from backends.agent.relay import Relay
from backends.base import Handles, Streams
from backends.errors import BackendUnavailable, LaunchFailed, LifecycleError, Problem
from backends.frozen import replace
from backends.guest_etc import INSIDE_ID
from backends.inside.agent_protocol import GuestCommand
from backends.inside.store import AGENT, find_program
from backends.launched.running import LaunchedRunning
from backends.sessions import Copied, Settled

__all__ = ["IMPOSED", "AgentSandbox", "start_agent"]

_AGENT_S = 15.0
_END_S = 5.0
_GIVEN_UP_S = 2.0
Plan = TypeVar("Plan")
Launch = Callable[[Plan, Handles, Streams, tuple[tuple[str, str], ...], tuple[int, ...]], LaunchedRunning]


class AgentSandbox:
    """A `backends.sessions.SessionSandbox`; belongs to the loop that it was made on."""

    def __init__(self, running: LaunchedRunning, agent: socket.socket) -> None:
        self._running = running
        self._agent = agent
        self._left = asyncio.Event()
        asyncio.get_running_loop().add_reader(running.pidfd, self._ended)

    @property
    def pid(self) -> int:
        return self._running.pid

    async def relay(self) -> Relay:
        try:
            return await Relay.open(self._agent, deadline_s=_AGENT_S)
        except GuestError as error:
            await self.end()
            await self.gone()  # which raises what kept it from being set up
            raise LaunchFailed(Problem("agent_silent", "", f"the sandbox's agent: {error}")) from error

    async def gone(self) -> str:
        await self._left.wait()
        ended = self._running.wait(_GIVEN_UP_S)
        return "it left without a word" if ended is None else f"its agent {ended.outcome.value}"

    async def suspend(self, relay: Relay) -> None:
        relay.signal_everything(signal.SIGSTOP)

    async def resume(self, relay: Relay) -> None:
        relay.signal_everything(signal.SIGCONT)

    async def copy(self, relay: Relay) -> Copied:  # noqa: ARG002 - nothing of it can be asked for this
        message = "what runs in a sandbox that is no virtual machine cannot be copied"
        raise LifecycleError("unsupported_phase", Problem("unsupported_phase", "", message))

    async def settle(self, relay: Relay) -> Settled:  # noqa: ARG002 - what it wrote is where it belongs
        return Settled()

    async def end(self) -> None:
        for _ in range(2):  # the second time is for a process 1 that does not obey
            self._running.kill()
            try:
                await asyncio.wait_for(self._left.wait(), _END_S)
            except TimeoutError:
                continue
            return

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._running.pidfd)
        self._left.set()


def start_agent(plan: Plan, handles: Handles, launch: Launch[Plan]) -> AgentSandbox:
    """Start the plan's sandbox with an agent as its workload, under everything that the plan holds.

    Parameters
    ----------
    plan: of one run; its command is not run.
    launch: the backend's own.

    Raises what `launch` raises, `BackendUnavailable` without the agent.
    """
    program = find_program(AGENT)
    if program is None:
        fix = "mxc-ops prep host --backend bubblewrap --yes"
        raise BackendUnavailable(Problem("agent_missing", "", "the agent of sessions is not built", fix=fix))
    ours, theirs = socket.socketpair()
    # Executed through its descriptor: no path of it is needed, or visible, inside, and no rule is in its way.
    agent = os.memfd_create("agent", os.MFD_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        with open(program, "rb") as file:
            os.write(agent, file.read())
        argv = (f"/proc/self/fd/{agent}", str(theirs.fileno()))
        alone = replace(plan, argv=argv, environment=(), secret_names=(), cwd="/", tty=False)
        running = launch(alone, handles, Streams(null, null, null), (), (agent, theirs.fileno()))
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(agent)
        os.close(null)
        theirs.close()
    return AgentSandbox(running, ours)


IMPOSED = GuestCommand((), user=(INSIDE_ID, INSIDE_ID))
"""On each command: the agent is under the sandbox's restrictions itself, and so is all that it starts."""
