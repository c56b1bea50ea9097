"""Between a `Policy` and a config document, both ways."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from backends import registry
from backends.base import Access, SecretSource, StdinMode
from backends.hyperlight_settings import HyperlightSettings, Runtime
from backends.virtual_machine import System
from mxc_ops.policy import containers, machine
from mxc_ops.policy.features import LIMIT_FIELDS, check_features
from mxc_ops.policy.host_loopback import apart_from_ports, asks_for_ports
from mxc_ops.policy.network_document import extension_parts, network_section, runtime_config
from mxc_ops.sources import as_request

if TYPE_CHECKING:
    from mxc_ops.policy_builder import Policy

DOCUMENT_VERSION = "1.1.0-alpha"


def policy_arguments(source: Any) -> dict[str, Any]:
    """What `Policy` is made with to say the same as a document; see `Policy.from_config`."""
    request = as_request(source)
    check_features(apart_from_ports(request), registry.get(request.containment).capabilities)
    paths = {
        access: tuple(grant.path for grant in request.grants if grant.access is access) for access in Access
    }
    timeout = request.timeout
    runtime = request.hyperlight.runtime if request.hyperlight else Runtime.PYTHON
    return {
        "read_only": paths[Access.READ_ONLY],
        "read_write": paths[Access.READ_WRITE],
        "denied": paths[Access.DENIED],
        "optional": tuple(grant.path for grant in request.grants if grant.optional),
        "env": dict(request.environment.entries) | dict(request.environment.secrets),
        "limits": request.limits,
        "timeout_s": timeout.after_ms / 1000 if timeout.after_ms else None,
        "grace_s": timeout.grace_ms / 1000,
        "timeout_signal": timeout.signal,
        "cwd": request.cwd if request.cwd != "/" or request.wslc else None,
        "seccomp": request.seccomp,
        "network": containers.without_ports(request.network),
        "host_loopback": asks_for_ports(request),
        "stdin": request.stdin,
        "tty": request.tty,
        "user": request.user,
        "group": request.group,
        "containment": request.containment,
        "vm": machine.without_defaults(request.containment, request.vm, runtime) if request.vm else None,
        "hyperlight": request.hyperlight,
        "wslc": request.wslc,
        "system": request.system if request.system != System() else None,
        "name": request.container_id,
    }


def config_from_policy(policy: Policy, shell: str | None, args: tuple[str, ...]) -> dict[str, Any]:
    """See `Policy.as_config`; the command is `shell` or `args`. Fields at their defaults are left out."""
    extension = _extension(policy)
    if args:
        extension["args"] = list(args)
    return _present(
        {
            "version": DOCUMENT_VERSION,
            "containerId": policy.name,
            "containment": policy.containment,
            "process": _process(policy, shell),
            "filesystem": _present(
                {
                    "readwritePaths": [os.fspath(path) for path in policy.read_write],
                    "readonlyPaths": [os.fspath(path) for path in policy.read_only],
                    "deniedPaths": [os.fspath(path) for path in policy.denied],
                }
            ),
            "lxc": _system(policy),
            "hyperlight": _runtime(policy),
            "wslc": containers.written_section(policy.wslc) if policy.wslc else None,
            "network": network_section(policy.network, host_loopback=policy.host_loopback),
            "runtimeConfig": runtime_config(policy.network),
            "mxcOps": extension,
        }
    )


def _process(policy: Policy, shell: str | None) -> dict[str, Any]:
    process = _present(
        {
            "commandLine": shell,
            "cwd": None if policy.cwd is None else os.fspath(policy.cwd),
            "timeout": 0 if policy.timeout_s is None else max(1, round(policy.timeout_s * 1000)),
        }
    )
    if policy.env is not None:
        process["env"] = [f"{name}={value}" for name, value in policy.env.items() if isinstance(value, str)]
    return process


def _extension(policy: Policy) -> dict[str, Any]:
    stdin = policy.stdin
    secrets = {
        name: _present({"file": value.file, "fd": value.fd})
        for name, value in (policy.env or {}).items()
        if isinstance(value, SecretSource)
    }
    grace_ms = round(policy.grace_s * 1000)
    return _present(
        {
            "limits": _limits(policy),
            "user": policy.user,
            "group": policy.group,
            "seccomp": policy.seccomp if policy.seccomp != "default" else None,
            "stdin": {
                StdinMode.INHERIT: None,
                StdinMode.NONE: "none",
                StdinMode.FILE: {"file": stdin.content},
                StdinMode.TEXT: {"text": stdin.content},
            }[stdin.mode],
            "tty": policy.tty or None,
            "timeout": _present(
                {
                    "graceMs": grace_ms,
                    "signal": policy.timeout_signal if policy.timeout_signal != "TERM" else None,
                }
            ),
            "optionalPaths": [os.fspath(path) for path in policy.optional],
            "env": secrets,
            "vm": _machine(policy),
            "hyperlight": _driver(policy),
            "wslc": _container(policy),
            **extension_parts(policy.network),
        }
    )


def _system(policy: Policy) -> dict[str, Any]:
    if policy.system is None:
        return {}
    return {"distribution": policy.system.distribution, "release": policy.system.releases[0]}


def _runtime(policy: Policy) -> dict[str, Any]:
    """Always named: without a name it is another one (config-schema.md §3.1)."""
    if policy.containment != "hyperlight":
        return {}
    return {"runtime": (policy.hyperlight or HyperlightSettings()).runtime.value}


def _driver(policy: Policy) -> dict[str, Any]:
    if policy.hyperlight is None or policy.hyperlight.driver is None:
        return {}
    return {"driver": policy.hyperlight.driver.value}


def _container(policy: Policy) -> dict[str, Any]:
    if policy.wslc is None:
        return {}
    return {name: True for name, field in containers.OWN_FIELDS.items() if getattr(policy.wslc, field)}


def _machine(policy: Policy) -> dict[str, Any]:
    if policy.vm is None:
        return {}
    machine_said: dict[str, Any] = {name: getattr(policy.vm, field) for name, field in machine.FIELDS.items()}
    kind = policy.vm.command
    return _present(machine_said | {"command": kind.value if kind else None})


def _limits(policy: Policy) -> dict[str, Any]:
    limits: dict[str, Any] = {name: getattr(policy.limits, field) for name, field in LIMIT_FIELDS.items()}
    limits["bestEffort"] = sorted(policy.limits.best_effort)
    return _present(limits)


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", 0, [], {})}
