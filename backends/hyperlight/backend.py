"""The containment ``hyperlight``: source for a runtime, by one of two drivers (backends.md §4).

The driver ``qemu`` is `backends.vm` with an image for each runtime, and grants below ``/host``.
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
        from backends.hyperlight.places import at_host

        observed = self._machine.observe(request)
        try:
            facts = replace(observed.facts, shown_at=at_host(observed.paths))
        except BaseException:
            observed.handles.close()
            raise
        return replace(observed, facts=facts)

    def plan(self, request: SandboxRequest, facts: VmFacts, view: FilesystemView) -> VmPlan:
        """See `backends.vm.plan.make_plan`."""
        return self._machine.plan(request, facts, view)

    def launch(
        self, plan: VmPlan, handles: Handles, streams: Streams, secrets: tuple[tuple[str, str], ...] = ()
    ) -> Running:
        """See `backends.vm.launch.launch`."""
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
