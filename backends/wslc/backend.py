"""The containment ``wslc``: a container of an OCI image, in a utility VM (backends.md §5).

On Linux that is `backends.vm` with a container in the machine. Facts of a Windows host make a plan for its
own tools, which is refused by name when it is to be launched (`backends.wslc.windows`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from backends.base import FilesystemView, Handles, Observed, Running, SandboxRequest, Streams
from backends.errors import PolicyRefused, Problem
from backends.features import Capabilities
from backends.frozen import replace
from backends.vm.backend import VmBackend
from backends.vm.facts import VmFacts
from backends.vm.plan import VmPlan
from backends.wslc.shared.plan import ALONE, POINTER, share

if TYPE_CHECKING:
    from backends.inside.agent_protocol import GuestCommand
    from backends.sessions import Copied, SessionSandbox
    from backends.wslc.windows.facts import WindowsFacts
    from backends.wslc.windows.plan import WindowsPlan

__all__ = ["WslcBackend"]


class WslcBackend:
    """A `backends.base.Backend`; holds no state."""

    def __init__(self) -> None:
        self._machine = VmBackend("wslc")

    @property
    def capabilities(self) -> Capabilities:
        return self._machine.capabilities

    def observe(self, request: SandboxRequest) -> Observed:
        """See `backends.vm.observe.observe`. Raises `UnsupportedContainment` on Windows."""
        if sys.platform == "win32":
            from backends.wslc.windows.launch import refuse_observing

            refuse_observing(request.containment)
        return self._machine.observe(request)

    def plan(
        self, request: SandboxRequest, facts: VmFacts | WindowsFacts, view: FilesystemView
    ) -> VmPlan | WindowsPlan:
        """See `make_plan`, `share` and `plan_windows`: of a machine, a shared one, Windows' own."""
        if not isinstance(facts, VmFacts):
            from backends.wslc.windows.plan import plan_windows

            return plan_windows(request, facts)
        if request.wslc is not None and request.vm is not None:
            said = request.wslc
            machine = request.vm
            memory_mib, cpus = said.memory_mib or machine.memory_mib, said.cpus or machine.cpus
            request = replace(request, vm=replace(machine, memory_mib=memory_mib, cpus=cpus))
        plan = self._machine.plan(request, facts, view)
        return share(plan, facts) if request.wslc is not None and request.wslc.shared_vm else plan

    def launch(
        self,
        plan: VmPlan | WindowsPlan,
        handles: Handles,
        streams: Streams,
        secrets: tuple[tuple[str, str], ...] = (),
    ) -> Running:
        """See `backends.vm.launch.launch`. Raises `UnsupportedContainment` for a plan for Windows."""
        if not isinstance(plan, VmPlan):
            from backends.wslc.windows.launch import refuse_launch

            refuse_launch(plan)
        if not _shares(plan):
            return self._machine.launch(plan, handles, streams, secrets)
        from backends.vm.launch import launch
        from backends.wslc.shared.furnished import FurnishedContainer

        return launch(plan, handles, streams, secrets, FurnishedContainer)

    @property
    def session_modules(self) -> tuple[str, ...]:
        """See `backends.sessions.KeepsSessions`."""
        return (*self._machine.session_modules, "backends.wslc.shared.session")

    async def start_session(self, plan: VmPlan, handles: Handles, copied: Copied | None) -> SessionSandbox:
        """See `backends.sessions.KeepsSessions`."""
        if not _shares(plan):
            return await self._machine.start_session(plan, handles, copied)
        from backends.wslc.shared.session import start_shared

        return await start_shared(plan, handles, copied)

    def imposed(self, plan: VmPlan) -> GuestCommand:
        """See `backends.sessions.KeepsSessions`."""
        return self._machine.imposed(plan)

    def keep_ready(self, plan: VmPlan, size: int) -> None:
        """See `backends.base.KeepsReady`. Raises `PolicyRefused` for a machine that is shared."""
        if _shares(plan):
            message = "a pool is of machines that one run takes each, and this one is for several at once"
            raise PolicyRefused(Problem("shared_vm_pool", POINTER, message, fix=ALONE))
        self._machine.keep_ready(plan, size)


def _shares(plan: VmPlan) -> bool:
    return plan.container is not None and bool(plan.container.machine)
