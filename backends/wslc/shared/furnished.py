"""A container in a shared machine with everything in its place that a policy shows (effectful, asyncio)."""

from __future__ import annotations

import asyncio

from backends.agent.errors import GuestError, GuestRefused
from backends.base import Handles
from backends.ended import Conflict
from backends.errors import LaunchFailed, Problem
from backends.frozen import replace
from backends.guest_files.snapshot import Snapshot
from backends.network.outcome import NetworkOutcome
from backends.qemu.off_loop import on_thread
from backends.qemu.template_plan import GRANTS as GRANTS_DISK
from backends.qemu.timings import Timings
from backends.vm.container import PlannedContainer
from backends.vm.copying_back import bring_back, recovered_warnings
from backends.vm.disks import MachineDisks, open_disks
from backends.vm.failure import explain_container
from backends.vm.furnishing import furnish
from backends.vm.plan import VmPlan
from backends.wslc.shared.joining import Tenancy, join
from backends.wslc.shared.plan import grants_on
from backends.wslc.shared.talk import GRANTS, HELD, ROOT

__all__ = ["FurnishedContainer"]


class FurnishedContainer:
    """See `backends.vm.furnished.FurnishedMachine`, which it stands for. `end` it in every case."""

    def __init__(self, plan: VmPlan, handles: Handles, timings: Timings) -> None:
        """Only notes what is wanted. `handles` stay the caller's, and open until the end."""
        self.pid = 0
        self.warnings: list[str] = []
        self.conflicts: list[Conflict] = []
        self.network: NetworkOutcome | None = None
        self._plan = plan
        self._handles = handles
        self._timings = timings
        self._snapshots: dict[int, Snapshot] = {}
        self._tenancy: Tenancy | None = None

    @property
    def guest(self) -> Tenancy:
        """What commands run in, of one that was started."""
        assert self._tenancy is not None  # `start` has succeeded, `end` was not called
        return self._tenancy

    @property
    def is_there(self) -> bool:
        return self._tenancy is not None

    async def start(self) -> None:
        """Raises `LaunchFailed`, `PolicyRefused`, `BackendUnavailable`; call `end` then, too."""
        plan = self._plan
        assert plan.container is not None  # it is of a container
        if plan.files.writable:
            self.warnings += await asyncio.to_thread(recovered_warnings)
        disks = await on_thread(lambda: open_disks(plan, self._handles), drop=MachineDisks.close)
        try:
            self.warnings.extend(disks.warnings)
            self._timings.mark("diskBuilt")
            self._tenancy = await self._join(plan.container, disks)
        finally:
            disks.close()
        self.pid = self._tenancy.pid
        self._timings.mark("containerReady")
        placed = replace(plan, files=grants_on(plan.files, self._tenancy.grants))
        await furnish(placed, self._tenancy, self._handles, self._snapshots, self._timings)

    async def _join(self, container: PlannedContainer, disks: MachineDisks) -> Tenancy:
        names = {ROOT: container.root.name, GRANTS: GRANTS_DISK.name}
        files = {name: disks.fds[disk] for name, disk in names.items() if disk in disks.fds}
        files[HELD] = disks.held[0]
        plan = self._plan
        try:
            return await join(container.machine, plan.template, plan.confinement, container.spec, files)
        except GuestRefused as refusal:
            raise explain_container(container, refusal) from refusal
        except GuestError as error:
            raise LaunchFailed(Problem("container_not_started", "", str(error))) from error

    async def bring_back(self) -> None:
        """Copy the read-write grants back; what runs in it is killed first. Raises `CopyBackFailed`."""
        files, size = self._plan.files, self._plan.file_size_mib
        async for done in bring_back(self.guest, files, self._snapshots, self._handles, size):
            self.conflicts += done.conflicts
            self.warnings += done.warnings
        self._timings.mark("filesBack")

    async def end(self) -> None:
        if self._tenancy is not None:
            tenancy, self._tenancy = self._tenancy, None
            await tenancy.end()
