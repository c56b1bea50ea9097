"""What every one-shot containment of ours does with each feature, and why it does no more (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from backends.features import Capabilities, Feature, Support

__all__ = ["one_shot_capabilities"]

_SUPPORT: Mapping[Feature, Support] = {
    Feature.EGRESS: Support.GIVEN,
    Feature.INGRESS: Support.GIVEN,
    Feature.HOST_LOOPBACK: Support.GIVEN,
    Feature.NETWORK_PROXY: Support.GIVEN,
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
    Feature.DACL_FALLBACK: "Linux has no such access lists, and mxc-ops changes none",
    Feature.TELEMETRY: "mxc-ops sends no telemetry",
    Feature.BACKEND_SECTION: "the setting belongs to another backend",
}

_LIMITS = frozenset(("memoryMib", "pids", "cpus", "cpuSeconds", "fileSizeMib", "openFiles", "tmpMib"))


def one_shot_capabilities(
    containment: str,
    *,
    no_display: str,
    no_clipboard: str,
    not_kept: str,
    policy_ends: str,
    no_meaning: str,
) -> Capabilities:
    """The capabilities of a containment that runs one command on Linux and ends.

    The other parameters are its own reasons, each for what its name says.
    """
    own = {
        **dict.fromkeys((Feature.UI, Feature.INPUT_INJECTION), no_display),
        Feature.CLIPBOARD: no_clipboard,
        Feature.KEEP_CONTAINER: not_kept,
        Feature.PRESERVE_POLICY: policy_ends,
        Feature.EXPERIMENTAL: no_meaning,
    }
    return Capabilities(
        containment=containment,
        support=_SUPPORT,
        reasons={**_REASONS, **own},
        limits=_LIMITS,
        interactive_tty=True,
    )
