"""A machine that runs together with the connection to its agent (effectful, asyncio)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Protocol, TypeVar

from backends.agent.connection import GuestConnection
from backends.agent.container import Container
from backends.agent.errors import GuestError, GuestLost, GuestSilent
from backends.errors import LaunchFailed, Problem
from backends.qemu.confinement import Confinement
from backends.qemu.machine import Machine
from backends.qemu.running_machine import RunningMachine

__all__ = ["Guest", "WithAgent", "boot"]

_GONE_S = 1.0
_Answer = TypeVar("_Answer")


class WithAgent(Protocol):
    """What commands run in, while it lives: `ask` and `guard` raise what ended it at once.

    What `ask` raises is always of `backends.errors`; `guard` raises what the agent answered, too.
    """

    @property
    def agent(self) -> GuestConnection: ...

    async def ask(self, work: Awaitable[_Answer]) -> _Answer: ...

    async def guard(self, work: Awaitable[_Answer]) -> _Answer: ...


class Guest:
    """`end` it in every case. What it raises is always of `backends.errors`."""

    def __init__(
        self, machine: RunningMachine, agent: GuestConnection, containers: tuple[Container, ...] = ()
    ) -> None:
        """`containers` are those that it was copied with."""
        self.machine = machine
        self.agent = agent
        self.containers = containers

    @classmethod
    async def connect(cls, machine: RunningMachine, *, deadline_s: float) -> Guest:
        """Greet the agent of a machine that boots or was restored.

        Raises `LaunchFailed`: ``guest_silent`` (worth another try), ``qemu_ended``, ``guest_failed``.
        """
        agent = await ask(machine, GuestConnection.open(machine.agent, deadline_s=deadline_s))
        return cls(machine, agent)

    async def ask(self, work: Awaitable[_Answer]) -> _Answer:
        """Await something of the agent while the machine lives."""
        return await ask(self.machine, work)

    async def guard(self, work: Awaitable[_Answer]) -> _Answer:
        """The same, and what the agent answers is raised as it is."""
        return await self.machine.guard(work)

    async def end(self) -> None:
        await self.agent.close()
        await self.machine.end()


async def ask(machine: RunningMachine, work: Awaitable[_Answer]) -> _Answer:
    try:
        return await machine.guard(work)
    except GuestError as error:
        if isinstance(error, GuestLost):  # the usual cause, and then the one to tell, is the end of QEMU
            with suppress(TimeoutError):
                await asyncio.wait_for(machine.wait_gone(), _GONE_S)
        if machine.is_gone:
            raise machine.ended_error() from error
        seen = machine.console.last_lines()
        console = f"; the guest's console ends with: {seen}" if seen else ""
        silent = isinstance(error, GuestSilent)
        code = "guest_silent" if silent else "guest_failed"
        raise LaunchFailed(Problem(code, "", f"{error}{console}"), retryable=silent) from error


async def boot(
    machine: Machine,
    confinement: Confinement,
    descriptors: Mapping[str, int],
    *,
    deadline_s: float,
    tries: int,
) -> Guest:
    """Boot from kernel and initrd; a boot that hangs is given up and tried again (lab §1).

    Parameters
    ----------
    descriptors: of memory, kernel, initrd and disks; they stay the caller's.
    deadline_s: for one try, from the start of QEMU to the agent's greeting.

    Raises `LaunchFailed`.
    """
    for attempt in range(1, tries + 1):
        running = await RunningMachine.start(machine, confinement, descriptors)
        try:
            return await Guest.connect(running, deadline_s=deadline_s)
        except LaunchFailed as error:
            await running.end()
            if error.problems[0].code != "guest_silent" or attempt == tries:
                raise
        except BaseException:
            await running.end()
            raise
    raise AssertionError("a boot is tried at least once")
