"""The containment ``wslc``: a container of an OCI image, in a utility VM (backends.md §5).

On Linux that is `backends.vm` with a container in the machine. Facts of a Windows host make a plan for its
own tools, which is refused by name when it is to be launched (`backends.wslc.windows`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.base import FilesystemView, Handles, Observed, Running, SandboxRequest, Streams
from backends.features import Capabilities
from backends.frozen import replace
from backends.vm.backend import VmBackend
from backends.vm.facts import VmFacts
from backends.vm.plan import VmPlan

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
        """See `backends.vm.observe.observe`."""
        return self._machine.observe(request)

    def plan(
        self, request: SandboxRequest, facts: VmFacts | WindowsFacts, view: FilesystemView
    ) -> VmPlan | WindowsPlan:
        """See `backends.vm.plan.make_plan` and `backends.wslc.windows.plan.plan_windows`."""
        if not isinstance(facts, VmFacts):
            from backends.wslc.windows.plan import plan_windows

            return plan_windows(request, facts)
        if request.wslc is not None and request.vm is not None:
            said = request.wslc
            machine = request.vm
            memory_mib, cpus = said.memory_mib or machine.memory_mib, said.cpus or machine.cpus
            request = replace(request, vm=replace(machine, memory_mib=memory_mib, cpus=cpus))
        return self._machine.plan(request, facts, view)

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
        return self._machine.launch(plan, handles, streams, secrets)

    @property
    def session_modules(self) -> tuple[str, ...]:
        """See `backends.sessions.KeepsSessions`."""
        return self._machine.session_modules

    async def start_session(self, plan: VmPlan, handles: Handles, copied: Copied | None) -> SessionSandbox:
        """See `backends.sessions.KeepsSessions`."""
        return await self._machine.start_session(plan, handles, copied)

    def imposed(self, plan: VmPlan) -> GuestCommand:
        """See `backends.sessions.KeepsSessions`."""
        return self._machine.imposed(plan)

    def keep_ready(self, plan: VmPlan, size: int) -> None:
        """See `backends.base.KeepsReady`."""
        self._machine.keep_ready(plan, size)
