"""mxc-ops: run untrusted commands in sandboxes. The public Python API, imported piece by piece when used.

from mxc_ops import Policy, run

result = run(Policy(read_only=["/srv/data"], timeout_s=10), "wc -l /srv/data/*")
"""

from __future__ import annotations

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost more than all the rest
if TYPE_CHECKING:
    from typing import Any

    from backends.base import Limits, SecretSource, Stdin, StdinMode
    from backends.ended import LimitOutcome, Outcome, Usage
    from backends.errors import (
        BackendUnavailable,
        ConfigError,
        CopyBackFailed,
        LaunchFailed,
        LifecycleError,
        MxcError,
        PolicyLost,
        PolicyRefused,
        PrepFailed,
        Problem,
        UnsupportedContainment,
        UsageError,
    )
    from backends.hyperlight_settings import Driver, HyperlightSettings, Runtime
    from backends.virtual_machine import CommandKind, System, VirtualMachine
    from backends.wslc_settings import WslcSettings
    from mxc_ops.hyperlight.asynchronous import AsyncHyperlight
    from mxc_ops.hyperlight.hyperlight import Hyperlight
    from mxc_ops.hyperlight.result import CodeFailed, CodeResult
    from mxc_ops.hyperlight.snapshot import HyperlightSnapshot
    from mxc_ops.one_shot import Prepared, prepare, run
    from mxc_ops.one_shot_async import arun
    from mxc_ops.paths import private_tmp, tool_paths, user_profile_paths
    from mxc_ops.policy.network_builder import network
    from mxc_ops.policy_builder import Policy
    from mxc_ops.provenance import Provenance
    from mxc_ops.result import CommandFailed, Result
    from mxc_ops.sandbox import Sandbox
    from mxc_ops.session.record import Lease
    from mxc_ops.session.session import Session
    from mxc_ops.session.session_async import AsyncSession
    from mxc_ops.session.spawned_async import AsyncProcess
    from mxc_ops.spawned import Process
    from mxc_ops.warm import WarmPool

__version__ = "0.1.0"

__all__ = [
    "AsyncHyperlight",
    "AsyncProcess",
    "AsyncSession",
    "BackendUnavailable",
    "CodeFailed",
    "CodeResult",
    "CommandFailed",
    "CommandKind",
    "ConfigError",
    "CopyBackFailed",
    "Driver",
    "Hyperlight",
    "HyperlightSettings",
    "HyperlightSnapshot",
    "LaunchFailed",
    "Lease",
    "LifecycleError",
    "LimitOutcome",
    "Limits",
    "MxcError",
    "Outcome",
    "Policy",
    "PolicyLost",
    "PolicyRefused",
    "PrepFailed",
    "Prepared",
    "Problem",
    "Process",
    "Provenance",
    "Result",
    "Runtime",
    "Sandbox",
    "SecretSource",
    "Session",
    "Stdin",
    "StdinMode",
    "System",
    "UnsupportedContainment",
    "Usage",
    "UsageError",
    "VirtualMachine",
    "WarmPool",
    "WslcSettings",
    "arun",
    "network",
    "prepare",
    "private_tmp",
    "run",
    "tool_paths",
    "user_profile_paths",
]

_HOMES = {
    "backends.base": ("Limits", "SecretSource", "Stdin", "StdinMode"),
    "backends.ended": ("LimitOutcome", "Outcome", "Usage"),
    "backends.errors": (
        *("BackendUnavailable", "ConfigError", "LaunchFailed", "MxcError", "PolicyLost", "PolicyRefused"),
        *("CopyBackFailed", "LifecycleError", "PrepFailed"),
        *("Problem", "UnsupportedContainment", "UsageError"),
    ),
    "backends.hyperlight_settings": ("Driver", "HyperlightSettings", "Runtime"),
    "backends.virtual_machine": ("CommandKind", "System", "VirtualMachine"),
    "backends.wslc_settings": ("WslcSettings",),
    "mxc_ops.hyperlight.asynchronous": ("AsyncHyperlight",),
    "mxc_ops.hyperlight.hyperlight": ("Hyperlight",),
    "mxc_ops.hyperlight.result": ("CodeFailed", "CodeResult"),
    "mxc_ops.hyperlight.snapshot": ("HyperlightSnapshot",),
    "mxc_ops.one_shot": ("Prepared", "prepare", "run"),
    "mxc_ops.one_shot_async": ("arun",),
    "mxc_ops.policy.network_builder": ("network",),
    "mxc_ops.policy_builder": ("Policy",),
    "mxc_ops.provenance": ("Provenance",),
    "mxc_ops.result": ("CommandFailed", "Result"),
    "mxc_ops.sandbox": ("Sandbox",),
    "mxc_ops.session.record": ("Lease",),
    "mxc_ops.session.session": ("Session",),
    "mxc_ops.session.session_async": ("AsyncSession",),
    "mxc_ops.session.spawned_async": ("AsyncProcess",),
    "mxc_ops.spawned": ("Process",),
    "mxc_ops.warm": ("WarmPool",),
    "mxc_ops.paths": ("private_tmp", "tool_paths", "user_profile_paths"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            value = getattr(import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
