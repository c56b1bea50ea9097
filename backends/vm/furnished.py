"""A clone with everything in its place that a policy shows, ready for commands (effectful, asyncio).

The order is what makes it safe: the clone gets its identity before anything else happens in it, and the
policy's files are in place before a command starts.
"""

from __future__ import annotations

import asyncio
import os
from fcntl import F_DUPFD_CLOEXEC, fcntl
from typing import TYPE_CHECKING

from backends.agent.identity import new_identity, same_identity
from backends.agent.inherited import Conversation, conversation_of
from backends.agent.process import GuestProcess
from backends.base import Handles
from backends.ended import Conflict
from backends.errors import LaunchFailed
from backends.frozen import frozen
from backends.guest_files.archive import check_copies, put_content
from backends.guest_files.disk import build_disk
from backends.guest_files.snapshot import Snapshot
from backends.inside.agent_protocol import GuestHide, GuestIdentity, GuestMount, MountFlag
from backends.qemu.clone import Clone, Link, restore
from backends.qemu.guest import Guest
from backends.qemu.memory_file import is_sealed
from backends.qemu.off_loop import off_loop, on_thread
from backends.qemu.pools import take_clone
from backends.qemu.template import open_template
from backends.qemu.template_plan import GRANTS_BYTES
from backends.qemu.template_store import StoredTemplate, TemplateStore, default_store
from backends.qemu.timings import Timings
from backends.vm.copying_back import bring_back, recovered_warnings
from backends.vm.failure import explain_full
from backends.vm.plan import VmPlan

if TYPE_CHECKING:
    from backends.network.opening import Network
    from backends.network.outcome import NetworkOutcome
    from backends.network.plan import NetworkPlan

__all__ = ["FurnishedMachine", "Original"]


@frozen
class Original:
    """A machine as it was: memory and devices, its disk of grants (-1: none), its agent's conversation.

    It `stood` still when it was copied, or it ran: so does what goes on from it at first.
    """

    source: StoredTemplate
    disk: int
    conversation: Conversation
    stood: bool = False

    def close(self) -> None:
        self.source.close()
        if self.disk >= 0:
            os.close(self.disk)


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
        self._disk = -1
        self._network: Network | None = None
        self.network: NetworkOutcome | None = None
        self._identity: GuestIdentity | None = None

    @property
    def guest(self) -> Guest:
        """Of a machine that was started."""
        assert self._clone is not None  # `start` has succeeded, `end` was not called
        return self._clone.guest

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
        if self._original is None:
            await self._furnish(guest)
        self._original = None

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
        if self._clone is not None:
            clone, self._clone = self._clone, None
            await clone.end()
        if self._network is not None:
            network, self._network = self._network, None
            self.network = await on_thread(network.end)
        if self._disk >= 0:
            os.close(self._disk)
            self._disk = -1

    async def wake(self) -> None:
        """It has stood still, and goes on: its clock is set, and nothing else of what it is."""
        assert self._clone is not None and self._identity is not None  # `start` has succeeded
        await self._clone.thaw()
        self._identity = same_identity(self._identity)
        await self.guest.ask(self.guest.agent.identify(self._identity))

    async def copy(self, *, go_on: bool, kept: tuple[GuestProcess, ...] = ()) -> Original:
        """What copies of it start from; of the agent's channel, nothing may be on its way.

        Its descriptors are the caller's to close. Raises `LaunchFailed`.

        Parameters
        ----------
        go_on: it goes on afterwards, whatever happens. Otherwise it stands still already, and remains so.
        kept: programs whose streams are taken over in a copy: `backends.agent.inherited.take_over`.
        """
        assert self._clone is not None  # `start` has succeeded
        conversation = conversation_of(self._clone.guest.agent, kept)
        try:
            source = await self._clone.freeze()
        finally:
            if go_on:
                await self._clone.thaw()
        disk = fcntl(self._disk, F_DUPFD_CLOEXEC, 3) if self._disk >= 0 else -1
        return Original(source, disk, conversation, stood=not go_on or source.memory < 0)

    async def _take_clone(self) -> Clone:
        plan = self._plan
        if self._original is not None:
            return await self._go_on(self._original)
        if self._own_memory:
            return await self._own_clone()
        if not plan.files.read_only:
            return await take_clone(
                plan.template, plan.confinement, self._timings, grants=None, used_bytes=0, link=self._link
            )
        disk = await on_thread(
            lambda: build_disk(plan.files, self._handles, size_bytes=GRANTS_BYTES),
            drop=lambda built: os.close(built.fd),
        )
        self._timings.mark("diskBuilt")
        self.warnings.extend(disk.warnings)
        try:
            return await take_clone(
                plan.template,
                plan.confinement,
                self._timings,
                grants=disk.fd,
                used_bytes=disk.used_bytes,
                link=self._link,
            )
        finally:
            os.close(disk.fd)

    async def _go_on(self, original: Original) -> Clone:
        if original.disk >= 0:
            self._disk = fcntl(original.disk, F_DUPFD_CLOEXEC, 3)
        source = original.source
        shared = source.memory >= 0 and is_sealed(source.memory)  # else it is a file that somebody keeps
        return await self._restored(source, own_memory=not shared, original=original)

    async def _own_clone(self) -> Clone:
        plan = self._plan
        if plan.files.read_only:
            disk = await on_thread(
                lambda: build_disk(plan.files, self._handles, size_bytes=GRANTS_BYTES),
                drop=lambda built: os.close(built.fd),
            )
            self._disk = disk.fd
            self.warnings.extend(disk.warnings)
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
            grants=self._disk if self._disk >= 0 else None,
            own_memory=own_memory,
            conversation=None if original is None else original.conversation,
            stood=original is not None and original.stood,
            link=self._link,
        )

    async def _furnish(self, guest: Guest) -> None:
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
