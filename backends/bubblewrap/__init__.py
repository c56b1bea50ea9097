"""Bubblewrap: an unprivileged sandbox of Linux namespaces, hardened (spec: backends.md §1, gaps §3)."""

from __future__ import annotations

from collections.abc import Mapping

from backends.base import FilesystemView, Handles, Observed, Running, SandboxRequest, Streams
from backends.bubblewrap.facts import BubblewrapFacts
from backends.bubblewrap.plan import BubblewrapPlan, make_plan
from backends.features import Capabilities, Feature, Support

_NO_NETWORK = "bubblewrap sandboxes have no network in this version"

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
    Feature.UI: "no display server is reachable from a bubblewrap sandbox",
    Feature.CLIPBOARD: "no clipboard is reachable from a bubblewrap sandbox",
    Feature.INPUT_INJECTION: "no display server is reachable from a bubblewrap sandbox",
    Feature.DACL_FALLBACK: "Linux has no such access lists, and mxc-ops changes none",
    Feature.TELEMETRY: "mxc-ops sends no telemetry",
    Feature.KEEP_CONTAINER: "a one-shot bubblewrap sandbox always ends with its command",
    Feature.PRESERVE_POLICY: "the policy lives in namespaces that end with the command",
    Feature.BACKEND_SECTION: "the setting belongs to another backend",
    Feature.EXPERIMENTAL: "the setting has no meaning for bubblewrap",
}

CAPABILITIES = Capabilities(
    containment="bubblewrap",
    support=_SUPPORT,
    reasons=_REASONS,
    limits=frozenset(
        ("memoryMib", "pids", "cpus", "cpuSeconds", "fileSizeMib", "openFiles", "tmpMib"),
    ),
    interactive_tty=True,
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


BACKEND = BubblewrapBackend()
