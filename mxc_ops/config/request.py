"""From a validated document to what every backend is given: a `SandboxRequest` (pure)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from backends.base import Access, Grant, Limits, SandboxRequest, SecretSource, Stdin, StdinMode, Timeout
from backends.digest import Fingerprint
from backends.errors import ConfigError, PolicyRefused, Problem
from backends.hyperlight_settings import Driver, HyperlightSettings, Runtime
from backends.network.policy import NO_NETWORK, NetworkPolicy
from backends.registry import available, resolve_intent
from backends.virtual_machine import CommandKind, System, VirtualMachine
from backends.wslc_settings import WslcSettings
from mxc_ops.config.asked import asked_features
from mxc_ops.config.canonical import canonicalise, policy_hash
from mxc_ops.config.document import Document, RequestKind
from mxc_ops.config.losses import origin_of
from mxc_ops.policy import containers, machine
from mxc_ops.policy.command import check_command
from mxc_ops.policy.environment import resolve_environment
from mxc_ops.policy.features import LIMIT_FIELDS
from mxc_ops.policy.spelling import collapse, spelling
from mxc_ops.policy.system import asked_system

__all__ = ["POINTERS", "build_request"]

POINTERS: Mapping[str, str] = {
    "containment": "/containment",
    "container_id": "/containerId",
    "shell": "/process/commandLine",
    "args": "/mxcOps/args",
    "cwd": "/process/cwd",
    "environment": "/process/env",
    "secrets": "/mxcOps/env",
    "timeout": "/process/timeout",
    "grace_ms": "/mxcOps/timeout/graceMs",
    "signal": "/mxcOps/timeout/signal",
    "grants": "/filesystem",
    "limits": "/mxcOps/limits",
    "network": "/network",
    "stdin": "/mxcOps/stdin",
    "tty": "/mxcOps/tty",
    "seccomp": "/mxcOps/seccomp",
    "user": "/mxcOps/user",
    "group": "/mxcOps/group",
    "vm": "/mxcOps/vm",
    "image": "/mxcOps/vm/image",
    "hyperlight": "/hyperlight",
    "wslc": "/wslc",
    "runtime": "/hyperlight/runtime",
    "driver": "/mxcOps/hyperlight/driver",
    "system": "/lxc",
    "accelerator": "/mxcOps/vm/accel",
    "machine": "/mxcOps/vm/machine",
    "command_kind": "/mxcOps/vm/command",
}
"""Where a document says what a field of the request holds: the same in every version."""

_LISTS = (
    ("readwritePaths", Access.READ_WRITE),
    ("readonlyPaths", Access.READ_ONLY),
    ("deniedPaths", Access.DENIED),
)


def build_request(document: Document, *, platform: str = sys.platform) -> SandboxRequest:
    """Say in our own words what a one-shot document asks for.

    Parameters
    ----------
    document: as `loader.load` answers it.
    platform: as `sys.platform`; decides what ``process`` and an omitted containment mean.

    `warnings` of the request start with the document's own. Raises `ConfigError` for a lifecycle document,
    for bad environment entries and for a command that is too long, `PolicyRefused` for a network that
    contradicts itself, `UnsupportedContainment` for a containment that no version of MXC knows.
    """
    if document.kind is not RequestKind.ONE_SHOT:
        raise _lifecycle(document.kind)
    canonical = canonicalise(document)
    containment = resolve_intent(canonical.get("containment"), platform)
    process: Mapping[str, Any] = canonical.get("process", {})
    ours: Mapping[str, Any] = canonical.get("mxcOps", {})
    pointers = _pointers(canonical)
    of_image = containment in machine.OF_CONTAINER_IMAGES
    environment, environment_warnings = resolve_environment(
        process.get("env", () if of_image else None),
        inherit_default=process.get("inheritDefaultEnv", False) and not of_image,
        secrets={name: SecretSource(**source) for name, source in ours.get("env", {}).items()},
    )
    shell, args = process.get("commandLine"), tuple(ours.get("args", ()))
    hyperlight = _hyperlight(containment, canonical, ours)
    vm = _machine(containment, ours.get("vm", {}), hyperlight, has_args=bool(args))
    check_command(shell, args, POINTERS["shell"], POINTERS["args"], vm.command if vm else None)
    optional = frozenset(spelling(path) for path in ours.get("optionalPaths", ()))
    grants, grant_warnings = collapse(_grants(canonical.get("filesystem", {}), optional))
    wslc = _wslc(containment, canonical, ours)
    network, network_warnings = _network(document, canonical, containment)
    user: int | None = ours.get("user")
    return SandboxRequest(
        containment=containment,
        shell=shell,
        args=args,
        cwd=process.get("cwd", None if of_image else "/"),
        environment=environment,
        grants=grants,
        network=network if wslc is None else containers.with_ports(network, wslc, pointers["wslc"]),
        asked=asked_features(canonical, document.body, containment),
        limits=_limits(ours.get("limits", {})),
        timeout=_timeout(process, ours.get("timeout", {})),
        stdin=_stdin(ours.get("stdin", "inherit")),
        tty=ours.get("tty", False),
        seccomp=ours.get("seccomp", "default"),
        user=user,
        group=ours.get("group", user),
        vm=vm,
        hyperlight=hyperlight,
        wslc=wslc,
        system=_system(containment, canonical),
        container_id=canonical.get("containerId", ""),
        document_hash=Fingerprint(lambda: policy_hash(canonical)),
        warnings=(*map(str, document.warnings), *environment_warnings, *grant_warnings, *network_warnings),
        pointers=pointers,
    )


def _pointers(canonical: Mapping[str, Any]) -> Mapping[str, str]:
    """`POINTERS`, but for the one section that older versions have elsewhere."""
    wslc = origin_of(canonical.get("origins", {}), POINTERS["wslc"])
    return POINTERS if wslc == POINTERS["wslc"] else {**POINTERS, "wslc": wslc}


def _lifecycle(kind: RequestKind) -> ConfigError:
    return ConfigError(
        Problem(
            "unsupported_phase",
            "/phase",
            f"this is a state-aware lifecycle request ({kind.value}): those run as sessions, not one-shot",
            expected="a one-shot document, without 'phase'",
        )
    )


def _grants(
    filesystem: Mapping[str, Any], optional: frozenset[tuple[bool, tuple[str, ...]]]
) -> Iterator[Grant]:
    for field, access in _LISTS:
        for index, path in enumerate(filesystem.get(field, ())):
            may_be_missing = access is not Access.DENIED and bool(optional) and spelling(path) in optional
            yield Grant(path, access, f"/filesystem/{field}/{index}", may_be_missing)


def _network(
    document: Document, canonical: Mapping[str, Any], containment: str
) -> tuple[NetworkPolicy, tuple[str, ...]]:
    """The policy and what to warn of. Of a containment without a backend here no network is looked at."""
    written: Mapping[str, Any] = document.body.get("network") or {}
    if not _says_more_than_none(canonical, written) or containment not in available():
        return NO_NETWORK, ()
    from mxc_ops.policy.network import network_policy
    from mxc_ops.policy.network_checks import network_warnings
    from mxc_ops.policy.network_legacy import legacy_problems, legacy_warnings

    problems = list(legacy_problems(written, containment))
    policy = NO_NETWORK
    try:
        policy = network_policy(canonical)
    except PolicyRefused as refused:
        known = {problem.path for problem in problems}
        problems.extend(problem for problem in refused.problems if problem.path not in known)
    if problems:
        raise PolicyRefused(problems)
    return policy, (*legacy_warnings(written), *network_warnings(policy))


def _says_more_than_none(canonical: Mapping[str, Any], written: Mapping[str, Any]) -> bool:
    """Whether there is anything to be read: most documents have no network, or a default of deny alone."""
    egress: Mapping[str, Any] = canonical.get("network", {}).get("egress", {})
    ours: Mapping[str, Any] = canonical.get("mxcOps", {})
    return (
        egress.get("default") == "allow"
        or any(egress.get(field) for field in ("allow", "deny"))
        or any(ours.get(field) for field in ("network", "portMappings"))
        or any(written.get(field) for field in ("allowedHosts", "blockedHosts", "proxy"))
        or bool(canonical.get("runtimeConfig"))
    )


def _limits(limits: Mapping[str, Any]) -> Limits:
    """``bestEffort: true`` names all limits that are asked for."""
    if not limits:
        return Limits()
    asked = {field: limits[name] for name, field in LIMIT_FIELDS.items() if name in limits}
    lenient: bool | list[str] = limits.get("bestEffort", False)
    names = [name for name in LIMIT_FIELDS if name in limits] if lenient is True else lenient or ()
    return Limits(**asked, best_effort=frozenset(names))


def _machine(
    containment: str, vm: Mapping[str, Any], hyperlight: HyperlightSettings | None, *, has_args: bool
) -> VirtualMachine | None:
    accelerator: str = vm.get("accel", "auto")
    said = VirtualMachine(
        image_name=vm.get("image", ""),
        memory_mib=vm.get("memoryMib"),
        cpus=vm.get("cpus"),
        accelerator="" if accelerator == "auto" else accelerator,
        machine=vm.get("machine", ""),
        command=CommandKind(vm["command"]) if "command" in vm else None,
    )
    machine.check_runtime(containment, said, POINTERS, has_args=has_args)
    runtime = hyperlight.runtime if hyperlight else Runtime.PYTHON
    return machine.complete(containment, said, has_args=has_args, runtime=runtime)


def _hyperlight(
    containment: str, canonical: Mapping[str, Any], ours: Mapping[str, Any]
) -> HyperlightSettings | None:
    """Without a runtime it is ``agent`` (config-schema.md §3.1, 1.1.0-alpha)."""
    if containment != "hyperlight":
        return None
    driver: str = ours.get("hyperlight", {}).get("driver", "auto")
    runtime = canonical.get("hyperlight", {}).get("runtime", Runtime.AGENT.value)
    return HyperlightSettings(Runtime(runtime), None if driver == "auto" else Driver(driver))


def _wslc(containment: str, canonical: Mapping[str, Any], ours: Mapping[str, Any]) -> WslcSettings | None:
    if containment != "wslc":
        return None
    section: Mapping[str, Any] = canonical.get("wslc", {})
    return containers.read_settings(section, ours.get("wslc", {}))


def _system(containment: str, canonical: Mapping[str, Any]) -> System:
    section: Mapping[str, Any] = canonical.get("lxc", {}) if containment == "lxc" else {}
    distribution: str = section.get("distribution") or ""
    return asked_system(distribution, section.get("release") or "", POINTERS["system"])


def _timeout(process: Mapping[str, Any], ours: Mapping[str, Any]) -> Timeout:
    return Timeout(process.get("timeout", 0), ours.get("graceMs", 0), ours.get("signal", "TERM"))


def _stdin(stdin: str | Mapping[str, str]) -> Stdin:
    if isinstance(stdin, str):
        return Stdin(StdinMode(stdin))
    mode, content = next(iter(stdin.items()))
    return Stdin(StdinMode(mode), content)
