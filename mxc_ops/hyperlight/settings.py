"""What an object was asked for, checked, and the plan of its machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from backends.base import Handles, SandboxRequest
from backends.errors import ConfigError, PolicyRefused, Problem
from backends.frozen import frozen, replace
from backends.guest_files.reserved import OWN_PATHS, SYSTEM_PATHS
from backends.hyperlight.places import HOST
from backends.hyperlight_settings import Driver, HyperlightSettings, Runtime
from backends.inside.agent_protocol import GuestCommand
from backends.inside.cells_source import node_program, python_program
from backends.linux import seccomp
from backends.linux.duplicates import Duplicates
from backends.pathnames import within
from backends.vm.plan import VmPlan
from mxc_ops.hyperlight.machine import Blueprint
from mxc_ops.one_shot import prepare
from mxc_ops.policy.environment import read_secrets
from mxc_ops.policy_builder import Policy

__all__ = ["CONTAINMENT", "Settings", "check_time", "command_for", "make_blueprint", "settings"]

CONTAINMENT = "hyperlight"
"""What carries the machines of all these objects."""

_RUNTIMES = tuple(runtime.value for runtime in Runtime)
_WITH_CELLS: Mapping[str, Callable[[], str]] = {"python": python_program, "node": node_program}
"""Runtimes whose interpreter stays, and the source that it starts with."""

_SOURCE = "0"
"""Stands in a plan's command for source that is not known yet."""

_SHARED = ("/tmp", "/dev/shm", "/var/tmp")  # noqa: S108 - of the guest: everybody's, and not to be covered
_MIB = 1 << 20


@frozen
class Settings:
    """See `mxc_ops.Hyperlight` for what each is."""

    policy: Policy
    runtime: str
    output_dir: str
    output_at: str
    output_bytes: int
    tool_timeout_s: float | None
    max_calls: int
    max_output_bytes: int

    @property
    def has_cells(self) -> bool:
        return self.runtime in _WITH_CELLS

    @property
    def cwd(self) -> str:
        """The working directory: the policy's, or where output goes when it names none."""
        return self.output_at if self.policy.cwd is None else os.fspath(self.policy.cwd)


def settings(
    policy: Policy | None,
    fields: Mapping[str, Any],
    *,
    runtime: str,
    output_dir: str | os.PathLike[str] | None,
    output_at: str,
    output_mib: int,
    tool_timeout_s: float | None,
    max_calls: int,
    max_output_bytes: int,
) -> Settings:
    """Raises `ConfigError` with all that is malformed, `PolicyRefused` for what no interpreter that stays can
    have."""
    policy = (policy or Policy()).replace(**fields) if fields else policy or Policy()
    problems = [
        *_runtime_problems(runtime),
        *_path_problems(output_at, policy),
        *_number_problems(output_mib=output_mib, max_output_bytes=max_output_bytes, max_calls=max_calls),
    ]
    if policy.containment not in ("process", CONTAINMENT):
        message = f"code runs in a {CONTAINMENT} here, not in {policy.containment!r}"
        problems.append(Problem("wrong_containment", "containment", message, fix="leave it out"))
    if problems:
        raise ConfigError(problems)
    check_time("tool_timeout_s", tool_timeout_s)
    if policy.tty:
        message = "code has no terminal: its output is captured, and its input is empty"
        raise PolicyRefused(Problem("no_terminal", "tty", message, fix="tty=False, or Session.spawn"))
    return Settings(
        policy=policy.replace(containment=CONTAINMENT),
        runtime=runtime,
        output_dir="" if output_dir is None else os.path.abspath(output_dir),  # noqa: PTH100 - links stay
        output_at=output_at,
        output_bytes=output_mib * _MIB,
        tool_timeout_s=tool_timeout_s,
        max_calls=max_calls,
        max_output_bytes=max_output_bytes,
    )


def make_blueprint(asked: Settings) -> tuple[Blueprint, Duplicates]:
    """Look at the host and plan, as a run does; the handles are the caller's to close.

    Raises what `mxc_ops.run` raises before a command starts.
    """
    request = _request(asked)
    with prepare(request, kept=True) as prepared:
        plan: VmPlan = prepared.plan
        secrets = read_secrets(request.environment, "env") if request.environment.secrets else ()
        handles = _kept(plan, prepared.handles)
    command = replace(
        plan.command,
        env=plan.command.env + secrets,
        cwd=asked.cwd,
        seccomp=seccomp.program(plan.seccomp),
    )
    return Blueprint(plan, command, asked.output_at, asked.output_bytes), handles


def command_for(blueprint: Blueprint, source: str) -> GuestCommand:
    """The program that takes this source, which was not known when it was planned."""
    command = blueprint.command
    return replace(
        command,
        args=tuple(source if arg == _SOURCE else arg for arg in command.args),
        zygote=source if command.zygote == _SOURCE else command.zygote,
    )


def interpreter_source(runtime: str) -> str:
    return _WITH_CELLS[runtime]()


def check_time(name: str, seconds: float | None) -> None:
    """Raises `ConfigError`."""
    if seconds is not None and not seconds > 0:
        raise ConfigError(Problem("out_of_range", name, f"{seconds} is no time", expected="> 0, or None"))


def _request(asked: Settings) -> SandboxRequest:
    runtime = HyperlightSettings(Runtime(asked.runtime), Driver.QEMU)
    return asked.policy.replace(hyperlight=runtime, timeout_s=None).request(_SOURCE)


def _kept(plan: VmPlan, handles: Handles) -> Duplicates:
    return Duplicates(handles, (grant.slot for grant in (*plan.files.read_only, *plan.files.writable)))


def _runtime_problems(runtime: str) -> Iterable[Problem]:
    if runtime not in _RUNTIMES:
        message = f"no runtime is called {runtime!r}"
        yield Problem("invalid_value", "runtime", message, expected=", ".join(_RUNTIMES))


def _path_problems(path: str, policy: Policy) -> Iterable[Problem]:
    parts = path.split("/")
    if not path.startswith("/") or len(path) < 2 or {"", ".", ".."} & set(parts[1:]) or "\0" in path:
        expected = "an absolute path without . and .., such as '/output'"
        yield Problem("invalid_value", "output_at", f"{path!r} is no path of a folder", expected=expected)
        return
    system = (*SYSTEM_PATHS, *OWN_PATHS, *_SHARED, HOST)
    if any(within(one, path) for one in system) or any(within(path, own) for own in (*OWN_PATHS, HOST)):
        message = f"{path!r} would cover what the guest is made of"
        yield Problem("guest_path_reserved", "output_at", message, expected="such as '/output'")
    denied = [os.fspath(one) for one in policy.denied]
    taken = [one for one in denied if within(one, path) or within(path, one)]
    if taken:
        message = f"{path!r} and what the policy says of {taken[0]!r} are in each other's way"
        yield Problem("output_taken", "output_at", message, expected="a folder of its own")


def _number_problems(**numbers: int) -> Iterable[Problem]:
    for name, number in numbers.items():
        if number < (0 if name == "max_calls" else 1):
            yield Problem("out_of_range", name, f"{number} is too few", expected="at least 1")
