"""What Windows' own WSL containers answer to each thing that a document can ask for (pure)."""

from __future__ import annotations

from backends.features import Capabilities, Feature, Support

__all__ = ["CAPABILITIES"]

CAPABILITIES = Capabilities(
    containment="wslc",
    support={
        Feature.EGRESS: Support.GIVEN,
        Feature.INGRESS: Support.GIVEN,
        Feature.HOST_LOOPBACK: Support.GIVEN,
        Feature.NETWORK_PROXY: Support.REFUSED,
        Feature.UI: Support.NEVER_GIVEN,
        Feature.CLIPBOARD: Support.NEVER_GIVEN,
        Feature.INPUT_INJECTION: Support.NEVER_GIVEN,
        Feature.DACL_FALLBACK: Support.NEVER_GIVEN,
        Feature.TELEMETRY: Support.NEVER_GIVEN,
        Feature.KEEP_CONTAINER: Support.GIVEN,
        Feature.PRESERVE_POLICY: Support.REFUSED,
        Feature.BACKEND_SECTION: Support.REFUSED,
        Feature.EXPERIMENTAL: Support.NEVER_GIVEN,
    },
    reasons={
        Feature.NETWORK_PROXY: "on Windows nothing keeps a WSL container from going around a proxy",
        Feature.UI: "a WSL container has no display",
        Feature.CLIPBOARD: "a WSL container has no clipboard",
        Feature.INPUT_INJECTION: "a WSL container has no display",
        Feature.DACL_FALLBACK: "mxc-ops changes no access lists",
        Feature.TELEMETRY: "mxc-ops sends no telemetry",
        Feature.PRESERVE_POLICY: "volumes and network end with the session",
        Feature.BACKEND_SECTION: "the setting belongs to another backend",
        Feature.EXPERIMENTAL: "it has no meaning here",
    },
    limits=frozenset(),
    interactive_tty=False,
)
"""For `check_features`, which must have let a request pass before it is planned for Windows."""
