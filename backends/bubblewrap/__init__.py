"""Bubblewrap: an unprivileged sandbox of Linux namespaces, hardened (spec: backends.md §1, gaps §3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.base import FilesystemView, Handles, Observed, Running, SandboxRequest, Streams
from backends.bubblewrap.facts import BubblewrapFacts
from backends.bubblewrap.plan import BubblewrapPlan, make_plan
from backends.features import Capabilities
from backends.one_shot_support import one_shot_capabilities

if TYPE_CHECKING:
    from backends.inside.agent_protocol import GuestCommand
    from backends.sessions import Copied, SessionSandbox

CAPABILITIES = one_shot_capabilities(
    "bubblewrap",
    no_display="no display server is reachable from a bubblewrap sandbox",
    no_clipboard="no clipboard is reachable from a bubblewrap sandbox",
    not_kept="a one-shot bubblewrap sandbox always ends with its command",
    policy_ends="the policy lives in namespaces that end with the command",
    no_meaning="the setting has no meaning for bubblewrap",
)


class BubblewrapBackend:
    """The `backends.base.Backend` of this containment; holds no state."""

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def observe(self, request: SandboxRequest) -> Observed:
        """Read what a plan depends on and open the policy's objects.

        Raises `BackendUnavailable` when bwrap or the launcher is missing or too old.
        """
        from backends.bubblewrap.observe import observe

        return observe(request)

    def plan(self, request: SandboxRequest, facts: BubblewrapFacts, view: FilesystemView) -> BubblewrapPlan:
        """See `backends.bubblewrap.plan.make_plan`."""
        return make_plan(request, facts, view)

    def launch(
        self,
        plan: BubblewrapPlan,
        handles: Handles,
        streams: Streams,
        secrets: tuple[tuple[str, str], ...] = (),
    ) -> Running:
        """See `backends.bubblewrap.launch.launch`."""
        from backends.bubblewrap.launch import launch

        return launch(plan, handles, streams, secrets)

    @property
    def session_modules(self) -> tuple[str, ...]:
        """See `backends.sessions.KeepsSessions`."""
        return ("backends.bubblewrap.observe", "backends.bubblewrap.launch", "backends.launched.sandbox")

    async def start_session(
        self, plan: BubblewrapPlan, handles: Handles, copied: Copied | None
    ) -> SessionSandbox:
        """See `backends.sessions.KeepsSessions`."""
        from backends.bubblewrap.launch import launch
        from backends.launched.sandbox import start_agent

        return await start_agent(plan, handles, launch, copied, "bubblewrap")

    def imposed(self, plan: BubblewrapPlan) -> GuestCommand:
        """See `backends.sessions.KeepsSessions`."""
        from backends.launched.sandbox import imposed

        return imposed(plan)


BACKEND = BubblewrapBackend()
