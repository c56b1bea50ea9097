"""The containments ``vm`` and ``microvm``: one command in a virtual machine of its own.

Spec: backends.md §3. They share everything but what a command line is: ``microvm`` takes Python source, as
upstream's does, ``vm`` a line for the shell.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from backends.base import FilesystemView, Handles, Observed, Running, SandboxRequest, Streams
from backends.features import Capabilities, Feature, Support
from backends.qemu.opened_ahead import open_ahead
from backends.qemu.template_store import TemplateStore, default_store
from backends.vm.facts import VmFacts
from backends.vm.plan import VmPlan, make_plan

__all__ = ["VmBackend"]

_NO_NETWORK = "virtual machines have no network in this version"

_SUPPORT: Mapping[Feature, Support] = {
    Feature.EGRESS: Support.REFUSED,
    Feature.INGRESS: Support.REFUSED,
    Feature.HOST_LOOPBACK: Support.REFUSED,
    Feature.NETWORK_PROXY: Support.REFUSED,
    Feature.UI: Support.NEVER_GIVEN,
    Feature.CLIPBOARD: Support.NEVER_GIVEN,
    Feature.INPUT_INJECTION: Support.NEVER_GIVEN,
    Feature.DACL_FALLBACK: Support.NEVER_GIVEN,
    Feature.TELEMETRY: Support.NEVER_GIVEN,
    Feature.KEEP_CONTAINER: Support.NEVER_GIVEN,
    Feature.PRESERVE_POLICY: Support.REFUSED,
    Feature.BACKEND_SECTION: Support.REFUSED,
    Feature.EXPERIMENTAL: Support.NEVER_GIVEN,
}

_REASONS: Mapping[Feature, str] = {
    Feature.EGRESS: _NO_NETWORK,
    Feature.INGRESS: _NO_NETWORK,
    Feature.HOST_LOOPBACK: _NO_NETWORK,
    Feature.NETWORK_PROXY: _NO_NETWORK,
    Feature.UI: "a virtual machine has no display",
    Feature.CLIPBOARD: "no clipboard is reachable from a virtual machine",
    Feature.INPUT_INJECTION: "a virtual machine has no display",
    Feature.DACL_FALLBACK: "Linux has no such access lists, and mxc-ops changes none",
    Feature.TELEMETRY: "mxc-ops sends no telemetry",
    Feature.KEEP_CONTAINER: "the machine of a one-shot run always ends with its command",
    Feature.PRESERVE_POLICY: "the policy ends with the machine",
    Feature.BACKEND_SECTION: "the setting belongs to another backend",
    Feature.EXPERIMENTAL: "the setting has no meaning for virtual machines",
}

_LIMITS = frozenset(("memoryMib", "pids", "cpus", "cpuSeconds", "fileSizeMib", "openFiles", "tmpMib"))


class VmBackend:
    """The `backends.base.Backend` of one of the two; holds no state."""

    def __init__(self, containment: str) -> None:
        self._capabilities = Capabilities(
            containment=containment, support=_SUPPORT, reasons=_REASONS, limits=_LIMITS, interactive_tty=True
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

    def keep_ready(self, plan: VmPlan, size: int) -> None:
        """See `backends.base.KeepsReady`."""
        from backends.qemu.loop_thread import submit
        from backends.qemu.pools import keep_parked

        submit(keep_parked(plan.template, plan.confinement, size)).result()
