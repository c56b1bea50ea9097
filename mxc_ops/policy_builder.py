"""`Policy`: what authors of agents write in Python instead of a config document."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from functools import cached_property
from typing import Any

from backends.base import (
    Access,
    Environment,
    Grant,
    Limits,
    SandboxRequest,
    SecretSource,
    Stdin,
    Timeout,
)
from backends.frozen import replace
from mxc_ops import policy_checks

Path = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a sandbox may do, apart from the command; checked when made, never changed, shared by any threads.

    Parameters
    ----------
    read_only, read_write, denied: absolute host paths; the most specific one wins, all others are hidden.
    optional: those of the granted paths that may be missing.
    env: the workload's variables, exactly; None stands for the defaults (PATH and TERM). A `SecretSource` as
        value is read from its file or descriptor when the sandbox starts and is never shown.
    limits: see `Limits`; units are in its field names.
    timeout_s: seconds until `timeout_signal` is sent, `grace_s` later all is killed; None waits for ever.
    cwd: absolute path inside the sandbox.
    seccomp: profile of allowed system calls: ``default``, ``strict`` or ``debug``.
    network: None, the only value there is: sandboxes have no network.
    stdin: what the workload reads: `Stdin()` is what the caller passes to `run`.
    tty: whether the workload gets a terminal.
    user, group: host ids to run as, when the caller is root and wants to name them.
    containment: ``process`` is this platform's own sandbox.
    name: free text that names the sandbox in logs.

    Raises `ConfigError` with every malformed argument at once; `PolicyRefused` for a network.
    """

    read_only: Sequence[Path] = ()
    read_write: Sequence[Path] = ()
    denied: Sequence[Path] = ()
    optional: Sequence[Path] = ()
    env: Mapping[str, str | SecretSource] | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)
    timeout_s: float | None = None
    grace_s: float = 0.0
    timeout_signal: str = "TERM"
    cwd: Path = "/"
    seccomp: str = "default"
    network: None = None
    stdin: Stdin = field(default_factory=Stdin)
    tty: bool = False
    user: int | None = None
    group: int | None = None
    containment: str = "process"
    name: str = ""

    def __post_init__(self) -> None:
        policy_checks.check(vars(self))
        for name in ("read_only", "read_write", "denied", "optional"):
            paths: Sequence[Path] = getattr(self, name)
            object.__setattr__(self, name, tuple(os.fspath(path) for path in paths))
        if self.env is not None:
            object.__setattr__(self, "env", dict(self.env))
        object.__setattr__(self, "cwd", os.fspath(self.cwd))

    @classmethod
    def from_config(cls, source: Any) -> Policy:
        """The policy of a config document, without its command.

        Parameters
        ----------
        source: a dict, a path, bytes, or a loaded `Document`, as for `run`.

        Raises `ConfigError` for a malformed document, `PolicyRefused` when it asks for what a `Policy` cannot
        say (a network, the settings of another backend).
        """
        from mxc_ops.config_policy import policy_arguments

        return cls(**policy_arguments(source))

    def replace(self, **changes: Any) -> Policy:
        """This policy with some arguments changed, checked again."""
        return replace_fields(self, **changes)

    def request(self, command: str | Sequence[str]) -> SandboxRequest:
        """The request to run `command`: a str is a line for the sandbox's shell, a sequence needs no shell.

        Raises `ConfigError` for an empty command or one with a NUL.
        """
        shell, args = policy_checks.split_command(command)
        return replace(self._template, shell=shell, args=args, document_hash=self._hash(command))

    def as_config(self, command: str | Sequence[str]) -> dict[str, Any]:
        """The config document (version 1.1.0-alpha, with our ``mxcOps`` key) that says the same."""
        from mxc_ops.config_policy import config_from_policy

        return config_from_policy(self, command)

    def _hash(self, command: str | Sequence[str]) -> str:
        from mxc_ops.config.canonical import policy_hash

        return policy_hash(self.as_config(command))

    @cached_property
    def _template(self) -> SandboxRequest:
        import sys

        from backends.registry import resolve_intent
        from mxc_ops.policy.spelling import collapse

        grants, warnings = collapse(self._grants())
        after_ms = 0 if self.timeout_s is None else max(1, round(self.timeout_s * 1000))
        return SandboxRequest(
            containment=resolve_intent(self.containment, sys.platform),
            cwd=os.fspath(self.cwd),
            environment=self._environment(),
            grants=grants,
            limits=self.limits,
            timeout=Timeout(after_ms, round(self.grace_s * 1000), self.timeout_signal),
            stdin=self.stdin,
            tty=self.tty,
            seccomp=self.seccomp,
            user=self.user,
            group=self.group if self.group is not None else self.user,
            container_id=self.name,
            warnings=warnings,
            pointers=_POINTERS,
        )

    def _grants(self) -> tuple[Grant, ...]:
        optional = {os.fspath(path) for path in self.optional}
        lists = (
            (Access.READ_WRITE, "read_write", self.read_write),
            (Access.READ_ONLY, "read_only", self.read_only),
            (Access.DENIED, "denied", self.denied),
        )
        return tuple(
            Grant(os.fspath(path), access, f"{name}[{index}]", os.fspath(path) in optional)
            for access, name, paths in lists
            for index, path in enumerate(paths)
        )

    def _environment(self) -> Environment:
        if self.env is None:
            from mxc_ops.policy.environment import DEFAULT_ENVIRONMENT

            return Environment(DEFAULT_ENVIRONMENT)
        return Environment(
            tuple((name, value) for name, value in self.env.items() if isinstance(value, str)),
            tuple((name, value) for name, value in self.env.items() if isinstance(value, SecretSource)),
        )


_POINTERS: Mapping[str, str] = {
    "args": "command",
    "container_id": "name",
    "containment": "containment",
    "cwd": "cwd",
    "environment": "env",
    "grace_ms": "grace_s",
    "grants": "read_only",
    "group": "group",
    "limits": "limits",
    "seccomp": "seccomp",
    "secrets": "env",
    "shell": "command",
    "signal": "timeout_signal",
    "stdin": "stdin",
    "timeout": "timeout_s",
    "tty": "tty",
    "user": "user",
}
