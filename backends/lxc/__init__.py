"""LXC: a container of Linux namespaces with a root file system of its own (spec: backends.md §2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.base import FilesystemView, Handles, Observed, Running, SandboxRequest, Streams
from backends.features import Capabilities
from backends.lxc.facts import LxcFacts
from backends.lxc.plan import LxcPlan, make_plan
from backends.one_shot_support import one_shot_capabilities

if TYPE_CHECKING:
    from backends.inside.agent_protocol import GuestCommand
    from backends.sessions import Copied, SessionSandbox

CAPABILITIES = one_shot_capabilities(
    "lxc",
    no_display="no display server is reachable from an LXC container",
    no_clipboard="no clipboard is reachable from an LXC container",
    not_kept="a one-shot LXC container always ends with its command",
    policy_ends="the policy lives in namespaces that end with the command",
    no_meaning="the setting has no meaning for LXC",
)


class LxcBackend:
    """The `backends.base.Backend` of this containment; holds no state."""

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def observe(self, request: SandboxRequest) -> Observed:
        """Read what a plan depends on and open the policy's objects.

        Raises `BackendUnavailable` when LXC or the launcher is missing or too old.
        """
        from backends.lxc.observe import observe

        return observe(request)

    def plan(self, request: SandboxRequest, facts: LxcFacts, view: FilesystemView) -> LxcPlan:
        """See `backends.lxc.plan.make_plan`."""
        return make_plan(request, facts, view)

    def launch(
        self,
        plan: LxcPlan,
        handles: Handles,
        streams: Streams,
        secrets: tuple[tuple[str, str], ...] = (),
    ) -> Running:
        """See `backends.lxc.launch.launch`."""
        from backends.lxc.launch import launch

        return launch(plan, handles, streams, secrets)

    @property
    def session_modules(self) -> tuple[str, ...]:
        """See `backends.sessions.KeepsSessions`."""
        return ("backends.lxc.observe", "backends.lxc.launch", "backends.launched.sandbox")

    async def start_session(self, plan: LxcPlan, handles: Handles, copied: Copied | None) -> SessionSandbox:
        """See `backends.sessions.KeepsSessions`."""
        from backends.launched.sandbox import start_agent
        from backends.lxc.launch import launch

        return await start_agent(plan, handles, launch, copied, "lxc")

    def imposed(self, plan: LxcPlan) -> GuestCommand:
        """See `backends.sessions.KeepsSessions`."""
        from backends.launched.sandbox import imposed

        return imposed(plan)


BACKEND = LxcBackend()
