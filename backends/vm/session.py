"""A virtual machine that outlives a command (effectful, asyncio)."""

from __future__ import annotations

import os
from fcntl import F_DUPFD_CLOEXEC, fcntl
from stat import S_IROTH
from typing import TYPE_CHECKING

from backends.agent.inherited import Conversation
from backends.agent.relay import Relay
from backends.base import Handles
from backends.errors import LaunchFailed, Problem
from backends.frozen import replace
from backends.inside.agent_protocol import GuestCommand
from backends.linux import seccomp
from backends.linux.duplicates import Duplicates
from backends.network.for_plans import kept, proxy_variables
from backends.qemu.memory_file import copy_data
from backends.qemu.template_store import StoredTemplate
from backends.qemu.timings import Timings
from backends.sessions import Copied, Scope, Settled
from backends.vm.container import with_image_environment
from backends.vm.disks import MachineDisks
from backends.vm.furnished import FurnishedMachine, Original
from backends.vm.plan import VmPlan

if TYPE_CHECKING:
    from backends.network.opening import Network

__all__ = ["VmSandbox", "imposed", "start_machine"]

_DISK = "disk."
_NOT_BACK = "it went on from a copy: what it changed in copies of read-write grants was not brought back"


class VmSandbox:
    """A `backends.sessions.SessionSandbox`; belongs to the loop that it was made on."""

    def __init__(
        self, plan: VmPlan, machine: FurnishedMachine, handles: Duplicates, *, is_copy: bool
    ) -> None:
        self._is_copy = is_copy
        self._plan = plan
        self._machine = machine
        self._handles = handles

    @property
    def pid(self) -> int:
        return self._machine.pid

    @property
    def network(self) -> Network | None:
        return self._machine.open_network

    async def relay(self) -> Relay:
        agent = self._machine.guest.agent
        return Relay(agent.link, agent.welcome)

    async def gone(self) -> str:
        machine = self._machine.guest.machine
        await machine.wait_gone()
        return str(machine.ended_error())

    async def suspend(self, relay: Relay) -> None:
        if not relay.hushed:
            await relay.hush()
            await self._machine.come_to_rest()
            await self._machine.guest.machine.execute("stop")

    async def resume(self, relay: Relay) -> None:
        if relay.hushed:
            await self._machine.wake()
            relay.speak()

    async def copy(self, relay: Relay) -> Copied:
        stands = relay.hushed
        if not stands:
            await relay.hush()
        try:
            original = await self._machine.copy(go_on=not stands)
        finally:
            if not stands:
                relay.speak()
        state = os.memfd_create("machine-state", os.MFD_CLOEXEC)
        with open(state, "wb", closefd=False) as file:
            file.write(original.source.state)
        fds = {"state": state}
        if original.source.memory >= 0:
            fds["memory"] = fcntl(original.source.memory, F_DUPFD_CLOEXEC, 3)
        original.source.close()
        fds |= {f"{_DISK}{name}": fd for name, fd in original.disks.fds.items()}
        for held in original.disks.held:  # whoever goes on from it holds the image itself
            os.close(held)
        said = {
            "conversation": original.conversation.as_dict(),
            "scope": _scope(self._plan).as_dict(),
            "stood": original.stood,
            "template": self._plan.template.key,
        }
        return Copied(fds, said)

    async def settle(self, relay: Relay) -> Settled:
        if self._plan.files.writable and self._is_copy:
            return Settled(warnings=(_NOT_BACK,))
        if self._plan.files.writable:
            await self.resume(relay)
            await self._machine.bring_back()
        return Settled(tuple(self._machine.conflicts), tuple(self._machine.warnings))

    async def end(self) -> None:
        await self._machine.end()
        self._handles.close()


def _outdated() -> LaunchFailed:
    message = "it was copied from a machine of another image, QEMU or host, and goes on nowhere else"
    fix = "start the sandbox anew, and take another snapshot: mxc-ops session start ID"
    return LaunchFailed(Problem("copy_outdated", "", message, fix=fix))


def _scope(plan: VmPlan) -> Scope:
    notes = tuple(f"what a copy changes in {grant.path} stays in it" for grant in plan.files.writable)
    return Scope(("processes", "memory", "files"), (), notes)


def _original(copied: Copied) -> Original:
    fds, said = copied.fds, copied.said
    state = os.pread(fds["state"], os.fstat(fds["state"]).st_size, 0)
    conversation = Conversation.of(said["conversation"])
    disks = {name.removeprefix(_DISK): _reopenable(fd) for name, fd in fds.items() if name.startswith(_DISK)}
    memory = fcntl(fds["memory"], F_DUPFD_CLOEXEC, 3) if "memory" in fds else -1
    return Original(
        StoredTemplate(memory, state), MachineDisks(disks, {}), conversation, stood=bool(said["stood"])
    )


def _reopenable(fd: int) -> int:
    """The same content for who runs the machine, and opens it anew: a kept copy's file is its owner's."""
    if os.fstat(fd).st_mode & S_IROTH:
        return fcntl(fd, F_DUPFD_CLOEXEC, 3)
    copy = os.memfd_create("grants", os.MFD_CLOEXEC)
    try:
        copy_data(fd, copy)
    except BaseException:
        os.close(copy)
        raise
    return copy


async def start_machine(plan: VmPlan, handles: Handles, copied: Copied | None) -> VmSandbox:
    """Raises what a run raises before its command starts; nothing is left then.

    A copy has its original's files as they were; what it changes in copies of grants is never brought back.
    """
    if copied is not None and copied.said["template"] != plan.template.key:
        raise _outdated()
    grants = (*plan.files.read_only, *plan.files.writable)
    own = Duplicates(handles, (grant.slot for grant in grants))
    original = None if copied is None else _original(copied)
    alone = replace(plan, network=kept(plan.network))
    machine = FurnishedMachine(alone, own, Timings(), own_memory=original is None, original=original)
    try:
        await machine.start()
    except BaseException:
        await machine.end()
        own.close()
        raise
    finally:
        if original is not None:
            original.close()
    return VmSandbox(plan, machine, own, is_copy=copied is not None)


def imposed(plan: VmPlan) -> GuestCommand:
    """What the plan says of its one command, which each of a session's is under."""
    env = proxy_variables(plan.network, plan.command.env)
    beside = with_image_environment(plan.container.image, ()) if plan.container is not None else ()
    return replace(
        plan.command, args=(), env=env, zygote=None, seccomp=seccomp.program(plan.seccomp), beside=beside
    )
