"""The containment ``hyperlight``: source for a runtime, by one of two drivers (backends.md §4).

The driver ``qemu`` is `backends.vm` with an image for each runtime, and grants below ``/host``; ``native`` is
`backends.hyperlight.native`. `backends.hyperlight.driver` has chosen one before anything here is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.base import FilesystemView, Handles, Observed, Running, SandboxRequest, Streams
from backends.features import Capabilities
from backends.frozen import replace
from backends.hyperlight_settings import Driver
from backends.vm.backend import VmBackend
from backends.vm.facts import VmFacts
from backends.vm.plan import VmPlan

if TYPE_CHECKING:
    from backends.hyperlight.native.facts import NativeFacts
    from backends.hyperlight.native.plan import NativePlan
    from backends.inside.agent_protocol import GuestCommand
    from backends.sessions import Copied, SessionSandbox

__all__ = ["HyperlightBackend"]


class HyperlightBackend:
    """A `backends.base.Backend`; holds no state."""

    def __init__(self) -> None:
        self._machine = VmBackend("hyperlight")

    @property
    def capabilities(self) -> Capabilities:
        return self._machine.capabilities

    def observe(self, request: SandboxRequest) -> Observed:
        """See `backends.vm.observe.observe`. Raises also `PolicyRefused` for grants of one last name."""
        if request.hyperlight is not None and request.hyperlight.driver is Driver.NATIVE:
            return self._observe_native(request)
        from backends.hyperlight.places import at_host

        observed = self._machine.observe(request)
        try:
            facts = replace(observed.facts, shown_at=at_host(observed.paths))
        except BaseException:
            observed.handles.close()
            raise
        return replace(observed, facts=facts)

    def _observe_native(self, request: SandboxRequest) -> Observed:
        from backends.hyperlight.native.observe import observe_native
        from backends.linux.objects import calling_user, observe_paths

        facts = observe_native(request)
        paths, handles = observe_paths(request.grants, calling_user(), visible_trees=())
        return Observed(facts, paths, handles)

    def plan(
        self, request: SandboxRequest, facts: VmFacts | NativeFacts, view: FilesystemView
    ) -> VmPlan | NativePlan:
        """See `backends.vm.plan.make_plan` and `backends.hyperlight.native.plan.plan_native`."""
        if isinstance(facts, VmFacts):
            return self._machine.plan(request, facts, view)
        from backends.hyperlight.native.plan import plan_native

        return plan_native(request, facts, view)

    def launch(
        self,
        plan: VmPlan | NativePlan,
        handles: Handles,
        streams: Streams,
        secrets: tuple[tuple[str, str], ...] = (),
    ) -> Running:
        """See `backends.vm.launch.launch` and `backends.hyperlight.native.launch.launch_native`."""
        if isinstance(plan, VmPlan):
            return self._machine.launch(plan, handles, streams, secrets)
        from backends.hyperlight.native.launch import launch_native

        return launch_native(plan, handles, streams, secrets)

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
