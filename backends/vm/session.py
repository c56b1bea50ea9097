"""A virtual machine that outlives a command (effectful, asyncio)."""

from __future__ import annotations

from backends.agent.relay import Relay
from backends.base import Handles
from backends.frozen import replace
from backends.inside.agent_protocol import GuestCommand
from backends.linux import seccomp
from backends.linux.duplicates import Duplicates
from backends.qemu.timings import Timings
from backends.sessions import Settled
from backends.vm.furnished import FurnishedMachine
from backends.vm.plan import VmPlan

__all__ = ["VmSandbox", "imposed", "start_machine"]


class VmSandbox:
    """A `backends.sessions.SessionSandbox`; belongs to the loop that it was made on."""

    def __init__(self, plan: VmPlan, machine: FurnishedMachine, handles: Duplicates) -> None:
        self._plan = plan
        self._machine = machine
        self._handles = handles

    @property
    def pid(self) -> int:
        return self._machine.pid

    async def relay(self) -> Relay:
        agent = self._machine.guest.agent
        return Relay(agent.link, agent.welcome)

    async def gone(self) -> str:
        machine = self._machine.guest.machine
        await machine.wait_gone()
        return str(machine.ended_error())

    async def settle(self) -> Settled:
        if self._plan.files.writable:
            await self._machine.bring_back()
        return Settled(tuple(self._machine.conflicts), tuple(self._machine.warnings))

    async def end(self) -> None:
        await self._machine.end()
        self._handles.close()


async def start_machine(plan: VmPlan, handles: Handles) -> VmSandbox:
    """Raises what a run raises before its command starts; nothing is left then."""
    grants = (*plan.files.read_only, *plan.files.writable)
    own = Duplicates(handles, (grant.slot for grant in grants))
    machine = FurnishedMachine(plan, own, Timings())
    try:
        await machine.start()
    except BaseException:
        await machine.end()
        own.close()
        raise
    return VmSandbox(plan, machine, own)


def imposed(plan: VmPlan) -> GuestCommand:
    """What the plan says of its one command, which each of a session's is under."""
    return replace(plan.command, args=(), env=(), zygote=None, seccomp=seccomp.program(plan.seccomp))
