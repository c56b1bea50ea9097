"""The containments ``vm`` and ``microvm``: one command in a virtual machine of its own.

Spec: backends.md §3. They share everything but what a command line is: ``microvm`` takes Python source, as
upstream's does, ``vm`` a line for the shell.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from backends.base import FilesystemView, Handles, Observed, Running, SandboxRequest, Streams
from backends.features import Capabilities
from backends.one_shot_support import one_shot_capabilities
from backends.qemu.opened_ahead import open_ahead
from backends.qemu.template_store import TemplateStore, default_store
from backends.vm.facts import VmFacts
from backends.vm.plan import VmPlan, make_plan

if TYPE_CHECKING:
    from backends.inside.agent_protocol import GuestCommand
    from backends.sessions import Copied, SessionSandbox

__all__ = ["VmBackend"]


class VmBackend:
    """The `backends.base.Backend` of one of the two; holds no state."""

    def __init__(self, containment: str) -> None:
        self._capabilities = one_shot_capabilities(
            containment,
            no_display="a virtual machine has no display",
            no_clipboard="no clipboard is reachable from a virtual machine",
            not_kept="the machine of a one-shot run always ends with its command",
            policy_ends="the policy ends with the machine",
            no_meaning="the setting has no meaning for virtual machines",
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def observe(self, request: SandboxRequest) -> Observed:
        """See `backends.vm.observe.observe`."""
        from backends.vm.observe import observe

        return observe(request)

    def plan(self, request: SandboxRequest, facts: VmFacts, view: FilesystemView) -> VmPlan:
        """See `backends.vm.plan.make_plan`."""
        return make_plan(request, facts, view)

    def launch(
        self, plan: VmPlan, handles: Handles, streams: Streams, secrets: tuple[tuple[str, str], ...] = ()
    ) -> Running:
        """See `backends.vm.launch.launch`."""
        if "backends.vm.launch" not in sys.modules:
            open_ahead(TemplateStore(default_store()), plan.template.key)
        from backends.vm.launch import launch

        return launch(plan, handles, streams, secrets)

    @property
    def session_modules(self) -> tuple[str, ...]:
        """See `backends.sessions.KeepsSessions`."""
        return ("backends.vm.observe", "backends.vm.session")

    async def start_session(self, plan: VmPlan, handles: Handles, copied: Copied | None) -> SessionSandbox:
        """See `backends.sessions.KeepsSessions`."""
        from backends.vm.session import start_machine

        return await start_machine(plan, handles, copied)

    def imposed(self, plan: VmPlan) -> GuestCommand:
        """See `backends.sessions.KeepsSessions`."""
        from backends.vm.session import imposed

        return imposed(plan)

    def keep_ready(self, plan: VmPlan, size: int) -> None:
        """See `backends.base.KeepsReady`."""
        from backends.qemu.loop_thread import submit
        from backends.qemu.pools import keep_parked

        ready = submit(keep_parked(plan.template, plan.confinement, size))
        try:
            ready.result()
        except BaseException:  # interrupted: it ends what it has begun
            ready.cancel()
            raise
