"""A clone with everything in its place that a policy shows, ready for commands (effectful, asyncio).

The order is what makes it safe: the clone gets its identity before anything else happens in it, and the
policy's files are in place before a command starts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from backends.agent.container import Container, start_container
from backends.agent.errors import GuestError, GuestRefused
from backends.agent.identity import new_identity, same_identity
from backends.agent.inherited import Conversation, come_to_rest, conversation_of
from backends.agent.process import GuestProcess
from backends.base import Handles
from backends.ended import Conflict
from backends.errors import LaunchFailed, Problem
from backends.frozen import frozen
from backends.guest_files.snapshot import Snapshot
from backends.inside.agent_protocol import GuestIdentity
from backends.qemu.clone import Clone, Link, restore
from backends.qemu.guest import Guest
from backends.qemu.memory_file import is_sealed
from backends.qemu.off_loop import on_thread
from backends.qemu.pools import take_clone
from backends.qemu.template import open_template
from backends.qemu.template_store import StoredTemplate, TemplateStore, default_store
from backends.qemu.timings import Timings
from backends.vm.container import PlannedContainer
from backends.vm.copying_back import bring_back, recovered_warnings
from backends.vm.disks import NO_DISKS, MachineDisks, open_disks
from backends.vm.failure import explain_container
from backends.vm.furnishing import furnish
from backends.vm.plan import VmPlan

if TYPE_CHECKING:
    from backends.network.opening import Network
    from backends.network.outcome import NetworkOutcome
    from backends.network.plan import NetworkPlan

__all__ = ["FurnishedMachine", "Original"]


@frozen
class Original:
    """A machine as it was: memory and devices, the files of its disks, its agent's conversation.

    It `stood` still when it was copied, or it ran: so does what goes on from it at first.
    """

    source: StoredTemplate
    disks: MachineDisks
    conversation: Conversation
    stood: bool = False

    def close(self) -> None:
        self.source.close()
        self.disks.close()


class FurnishedMachine:
    """Made on any thread; everything else happens on the loop of `start`. `end` it in every case."""

    def __init__(
        self,
        plan: VmPlan,
        handles: Handles,
        timings: Timings,
        *,
        own_memory: bool = False,
        original: Original | None = None,
    ) -> None:
        """Only notes what is wanted.

        Parameters
        ----------
        handles: stay the caller's, and open until the end.
        own_memory: so that copies of it can be made quickly.
        original: it goes on where this was copied, whose memory it shares until it writes, or copies when
            that is not sealed; its descriptors stay the caller's.
        """
        self.pid = 0
        self.warnings: list[str] = []
        self.conflicts: list[Conflict] = []
        self._plan = plan
        self._handles = handles
        self._timings = timings
        self._snapshots: dict[int, Snapshot] = {}
        self._clone: Clone | None = None
        self._own_memory = own_memory
        self._original = original
        self._disks = NO_DISKS
        self._inside: Guest | None = None
        self._network: Network | None = None
        self.network: NetworkOutcome | None = None
        self.container: Container | None = None
        self._identity: GuestIdentity | None = None

    @property
    def guest(self) -> Guest:
        """What commands run in, of a machine that was started: the machine itself, or the container in it."""
        assert self._clone is not None  # `start` has succeeded, `end` was not called
        return self._inside or self._clone.guest

    @property
    def open_network(self) -> Network | None:
        """What it was started with, until it has ended."""
        return self._network

    @property
    def _link(self) -> Link | None:
        if self._network is None:
            return None
        assert self._network.tap is not None  # it is of a machine
        return Link(self._network.tap, self._network.gate)

    @property
    def is_there(self) -> bool:
        return self._clone is not None

    async def start(self) -> None:
        """Raises `LaunchFailed`, `PolicyRefused`, `BackendUnavailable`; call `end` then, too."""
        if self._plan.files.writable:
            self.warnings += await asyncio.to_thread(recovered_warnings)
        if self._plan.network is not None:
            await self._open_network(self._plan.network)
        self._clone = await self._take_clone()
        guest = self._clone.guest
        self.pid = guest.machine.qemu.pid
        self._identity = new_identity()
        await guest.ask(guest.agent.identify(self._identity))
        self._timings.mark("identified")
        if self._plan.network is not None:
            from backends.network.arrange import guest_network

            await guest.ask(guest.agent.bring_up(guest_network(self._plan.network)))
        if self._plan.container is not None:
            await self._contain(self._clone, self._plan.container)
        if self._original is None:
            await furnish(self._plan, self.guest, self._handles, self._snapshots, self._timings)
        self._original = None

    async def _contain(self, clone: Clone, container: PlannedContainer) -> None:
        guest = clone.guest
        try:
            if self._original is not None:
                (self.container,) = guest.containers
            else:
                self.container = await guest.machine.guard(start_container(guest.agent, container.spec))
        except GuestRefused as refusal:
            raise explain_container(container, refusal) from refusal
        except GuestError as error:
            raise LaunchFailed(Problem("container_not_started", "", str(error))) from error
        self._inside = Guest(guest.machine, self.container.agent)
        self._timings.mark("containerReady")

    async def _open_network(self, plan: NetworkPlan) -> None:
        from backends.network.opening import Network, open_network

        launcher = self._plan.confinement.launcher
        self._network = await on_thread(lambda: open_network(plan, launcher), drop=Network.close)
        self._timings.mark("networkOpen")

    async def bring_back(self) -> None:
        """Copy the read-write grants back; what runs in it is killed first.

        Raises `CopyBackFailed`; called again, it goes on with those that are not back yet.
        """
        files, size = self._plan.files, self._plan.file_size_mib
        async for done in bring_back(self.guest, files, self._snapshots, self._handles, size):
            self.conflicts += done.conflicts
            self.warnings += done.warnings
        self._timings.mark("filesBack")

    async def end(self) -> None:
        if self._inside is not None:
            inside, self._inside = self._inside, None
            await inside.agent.close()
        if self._clone is not None:
            clone, self._clone = self._clone, None
            await clone.end()
        if self._network is not None:
            network, self._network = self._network, None
            self.network = await on_thread(network.end)
        disks, self._disks = self._disks, NO_DISKS
        disks.close()

    async def wake(self) -> None:
        """It has stood still, and goes on: its clock is set, and nothing else of what it is."""
        assert self._clone is not None and self._identity is not None  # `start` has succeeded
        await self._clone.thaw()
        self._identity = same_identity(self._identity)
        machine = self._clone.guest
        await machine.ask(machine.agent.identify(self._identity))

    async def come_to_rest(self) -> None:
        """Nothing of ours is on its way, besides what the caller asks for, when this returns."""
        assert self._clone is not None  # `start` has succeeded
        machine = self._clone.guest
        await machine.ask(come_to_rest(machine.agent, self._containers))

    @property
    def _containers(self) -> tuple[Container, ...]:
        return () if self.container is None else (self.container,)

    async def copy(self, *, go_on: bool, kept: tuple[GuestProcess, ...] = ()) -> Original:
        """What copies of it start from; of the agent's channel, nothing may be on its way.

        Its descriptors are the caller's to close. Raises `LaunchFailed`.

        Parameters
        ----------
        go_on: it goes on afterwards, whatever happens. Otherwise it stands still already, and remains so.
        kept: programs whose streams are taken over in a copy: `backends.agent.inherited.take_over`.
        """
        assert self._clone is not None  # `start` has succeeded
        if go_on:
            await self.come_to_rest()
        conversation = conversation_of(self._clone.guest.agent, self._containers, kept)
        try:
            source = await self._clone.freeze()
            try:
                disks = await on_thread(lambda: self._copied(self._disks), drop=MachineDisks.close)
            except BaseException:
                source.close()
                raise
        finally:
            if go_on:
                await self._clone.thaw()
        return Original(source, disks, conversation, stood=not go_on or source.memory < 0)

    def _copied(self, disks: MachineDisks) -> MachineDisks:
        container = self._plan.container
        return disks.copy("" if container is None else container.storage)

    async def _take_clone(self) -> Clone:
        plan = self._plan
        if self._original is not None:
            return await self._go_on(self._original)
        if self._own_memory:
            return await self._own_clone()
        await self._open_disks()
        used = sum(self._disks.used_bytes.values())
        return await take_clone(
            plan.template,
            plan.confinement,
            self._timings,
            disks=self._disks.fds,
            used_bytes=used,
            link=self._link,
        )

    async def _open_disks(self) -> None:
        self._disks = await on_thread(lambda: open_disks(self._plan, self._handles), drop=MachineDisks.close)
        if self._disks.fds:
            self._timings.mark("diskBuilt")
        self.warnings.extend(self._disks.warnings)

    async def _go_on(self, original: Original) -> Clone:
        self._disks = await on_thread(lambda: self._copied(original.disks), drop=MachineDisks.close)
        if self._plan.container is not None:
            self._disks.hold(self._plan.container)
        source = original.source
        shared = source.memory >= 0 and is_sealed(source.memory)  # else it is a file that somebody keeps
        return await self._restored(source, own_memory=not shared, original=original)

    async def _own_clone(self) -> Clone:
        plan = self._plan
        await self._open_disks()
        store = TemplateStore(default_store())
        template = await open_template(plan.template, plan.confinement, store, to_copy=True)
        try:
            return await self._restored(template, own_memory=True)
        finally:
            template.close()

    async def _restored(
        self, source: StoredTemplate, *, own_memory: bool, original: Original | None = None
    ) -> Clone:
        return await restore(
            self._plan.template,
            source,
            self._plan.confinement,
            self._timings,
            disks=self._disks.fds,
            own_memory=own_memory,
            conversation=None if original is None else original.conversation,
            stood=original is not None and original.stood,
            link=self._link,
        )
