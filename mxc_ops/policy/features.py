"""What a request asks for, held against what a backend can give (design: Refusal). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backends import registry
from backends.base import Limits, SandboxRequest
from backends.errors import PolicyRefused, Problem
from backends.features import Asked, Capabilities, Feature, Support
from mxc_ops.policy import machine
from mxc_ops.policy.environment import proxy_secrets
from mxc_ops.policy.host_loopback import unused_opening

__all__ = ["LIMIT_FIELDS", "check_features"]

LIMIT_FIELDS: Mapping[str, str] = {
    "memoryMib": "memory_mib",
    "pids": "pids",
    "cpus": "cpus",
    "cpuSeconds": "cpu_seconds",
    "fileSizeMib": "file_size_mib",
    "openFiles": "open_files",
    "tmpMib": "tmp_mib",
}
"""Limits by their document spelling → field of `Limits`."""

_LIMITS_POINTER = "/mxcOps/limits"

_DESKTOPS = ("processcontainer", "seatbelt")
_OURS = ("bubblewrap", "lxc", "microvm", "vm", "hyperlight", "wslc")

# Which containments give a feature, upstream or here: policy-semantics.md §3.5 (network), §4 (user
# interface); config-schema.md §3.2 (lifecycle), cli-sdk.md §5 (telemetry).
_COULD: Mapping[Feature, tuple[str, ...]] = {
    Feature.EGRESS: (*_OURS, "seatbelt", "processcontainer", "isolation_session"),
    Feature.INGRESS: (*_OURS, *_DESKTOPS),
    Feature.HOST_LOOPBACK: (*_OURS, *_DESKTOPS),
    Feature.NETWORK_PROXY: (*_OURS, "seatbelt", "processcontainer"),
    Feature.UI: _DESKTOPS,
    Feature.CLIPBOARD: _DESKTOPS,
    Feature.INPUT_INJECTION: _DESKTOPS,
    Feature.DACL_FALLBACK: ("processcontainer",),
    Feature.TELEMETRY: ("processcontainer", "wslc", "windows_sandbox", "isolation_session"),
    Feature.PRESERVE_POLICY: ("processcontainer",),
    Feature.KEEP_CONTAINER: ("lxc", "processcontainer"),
}

_SECTION_OWNERS: Mapping[str, tuple[str, ...]] = {
    "processContainer": ("processcontainer",),
    "appContainer": ("processcontainer",),
    "lxc": ("lxc",),
    "seatbelt": ("seatbelt",),
    "macos_sandbox": ("seatbelt",),
    "wslc": ("wslc",),
    "windowsSandbox": ("windows_sandbox",),
    "windows_sandbox": ("windows_sandbox",),
    "hyperlight": ("hyperlight",),
    "isolationSession": ("isolation_session",),
    "isolation_session": ("isolation_session",),
    "vm": machine.CONTAINMENTS,
}


def check_features(request: SandboxRequest, capabilities: Capabilities) -> tuple[str, ...]:
    """Answer everything that `request` asks for beyond command, files and environment.

    Returns the warnings: what was asked for and is never given, or need not be held (`bestEffort`). Raises
    `PolicyRefused` with every refusal at once; each names the field as the user's document spells it, the
    backend, the reason and the containments that could.
    """
    problems: list[Problem] = []
    warnings: list[str] = []
    for asked in request.asked:
        support = capabilities.support.get(asked.feature, Support.REFUSED)
        if support is Support.REFUSED:
            problems.append(_refusal(asked, capabilities))
        elif support is Support.NEVER_GIVEN:
            warnings.append(_warning(asked, capabilities))
        elif (unused := unused_opening(asked, request.network)) is not None:
            problems.append(unused)
    problems.extend(proxy_secrets(request))
    for name in asked_limits(request.limits):
        if name in capabilities.limits:
            continue
        pointer = f"{request.pointers.get('limits', _LIMITS_POINTER)}/{name}"
        why = f"{capabilities.containment} has no mechanism that holds the limit {name}"
        if name in request.limits.best_effort:
            warnings.append(f"{pointer}: {why}; it is not enforced (bestEffort)")
        else:
            fix = f'remove it, or let it go unenforced: mxcOps.limits.bestEffort: ["{name}"]'
            problems.append(Problem("limit_not_supported", pointer, why, fix=fix))
    if request.tty and not capabilities.interactive_tty:
        pointer = request.pointers.get("tty", "/mxcOps/tty")
        why = f"{capabilities.containment} cannot give the workload a terminal"
        problems.append(Problem("tty_not_supported", pointer, why, fix="set mxcOps.tty to false"))
    if problems:
        raise PolicyRefused(problems)
    return tuple(warnings)


def asked_limits(limits: Limits) -> Iterator[str]:
    """Document spellings of the limits that are asked for."""
    for name, field in LIMIT_FIELDS.items():
        if getattr(limits, field) is not None:
            yield name


def _refusal(asked: Asked, capabilities: Capabilities) -> Problem:
    backend = capabilities.containment
    reason = capabilities.reasons.get(asked.feature, "the backend does not offer it")
    others = [name for name in _containments_for(asked) if name != backend]
    fix = f"remove {asked.pointer}"
    if others:
        fix += f", or use a containment that can give it: {', '.join(others)}"
    return Problem(
        "not_supported_by_backend",
        asked.pointer,
        f"{asked.value} asks for {asked.feature.value}, which {backend} refuses: {reason}",
        fix=fix,
    )


def _warning(asked: Asked, capabilities: Capabilities) -> str:
    reason = capabilities.reasons.get(asked.feature)
    because = f": {reason}" if reason else ""
    return (
        f"{asked.pointer}: {asked.value} asks for {asked.feature.value}, which {capabilities.containment}"
        f" never gives{because}"
    )


def _containments_for(asked: Asked) -> tuple[str, ...]:
    if asked.feature is Feature.BACKEND_SECTION:
        segments = asked.pointer.replace(".", "/").split("/")  # arguments of `Policy` have dots
        return tuple(owner for segment in segments for owner in _SECTION_OWNERS.get(segment, ()))
    return tuple(name for name in _COULD.get(asked.feature, ()) if _may_give(name, asked.feature))


def _may_give(containment: str, feature: Feature) -> bool:
    """Whether it is worth naming: a containment that has a backend here is asked itself."""
    if registry.CONTAINMENTS[containment].module is None:
        return True
    return registry.get(containment).capabilities.support.get(feature) is Support.GIVEN
