"""`Policy`: what authors of agents write in Python instead of a config document."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from functools import cached_property
from typing import Any

from backends.base import Access, Environment, Grant, Limits, SandboxRequest, SecretSource, Stdin, Timeout
from backends.digest import Fingerprint
from backends.features import Asked, Feature
from backends.frozen import replace
from backends.hyperlight_settings import HyperlightSettings, Runtime
from backends.network.policy import NO_NETWORK, NetworkPolicy
from backends.virtual_machine import System, VirtualMachine
from backends.wslc_settings import WslcSettings
from mxc_ops import policy_checks
from mxc_ops.policy import containers, machine
from mxc_ops.policy.network_checks import asked_of, network_warnings
from mxc_ops.policy.system import wanted_system

Path = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a sandbox may do, apart from the command; checked when made, never changed, shared by any threads.

    Parameters
    ----------
    read_only, read_write, denied: absolute host paths; the most specific one wins, all others are hidden.
    optional: those of the granted paths that may be missing.
    env: the workload's variables, exactly (of a ``wslc`` container, beside its image's); None stands for the
        defaults (PATH and TERM). A `SecretSource` as
        value is read from its file or descriptor when the sandbox starts and is never shown.
    limits: see `Limits`; units are in its field names.
    timeout_s: seconds until `timeout_signal` is sent, `grace_s` later all is killed; None waits for ever.
    cwd: absolute path inside the sandbox; None is ``/``, or where the image of a ``wslc`` container says.
    seccomp: profile of allowed system calls: ``default``, ``strict`` or ``debug``.
    network: what `network` answers, as in ``network(allow=["example.test"], publish=["8080:80"])``; by
        default nothing is reachable.
    host_loopback: whether `Session.port` may open ways from the host's loopback into the sandbox, besides
        the ports that `network` names.
    stdin: what the workload reads: `Stdin()` is what the caller passes to `run`.
    tty: whether the workload gets a terminal.
    user, group: host ids to run as, when the caller is root and wants to name them.
    containment: ``process`` is this platform's own sandbox; ``vm`` and ``microvm`` start a virtual machine,
        for which a command that is a str is a line for the shell and Python source, respectively;
        ``hyperlight`` runs source of the runtime that `hyperlight` names.
    vm: what that machine is like, where its defaults are not meant; see `VirtualMachine`.
    hyperlight: runtime and driver of ``hyperlight``; by default Python, and whatever works here.
    wslc: image, size and ports of a ``wslc`` container; by default ``alpine:latest``.
    system: for ``lxc``, the distribution that its root is, and one name of its release; None is whatever the
        image ``base`` has.
    name: free text that names the sandbox in logs.

    Raises `ConfigError` with every malformed argument at once; `PolicyRefused` for a network that contradicts
    itself.
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
    cwd: Path | None = None
    seccomp: str = "default"
    network: NetworkPolicy = NO_NETWORK
    host_loopback: bool = False
    stdin: Stdin = field(default_factory=Stdin)
    tty: bool = False
    user: int | None = None
    group: int | None = None
    containment: str = "process"
    vm: VirtualMachine | None = None
    hyperlight: HyperlightSettings | None = None
    wslc: WslcSettings | None = None
    system: System | None = None
    name: str = ""

    def __post_init__(self) -> None:
        policy_checks.check(vars(self))
        for name in ("read_only", "read_write", "denied", "optional"):
            paths: Sequence[Path] = getattr(self, name)
            object.__setattr__(self, name, tuple(os.fspath(path) for path in paths))
        if self.env is not None:
            object.__setattr__(self, "env", dict(self.env))
        if self.cwd is not None:
            object.__setattr__(self, "cwd", os.fspath(self.cwd))

    @classmethod
    def from_config(cls, source: Any) -> Policy:
        """The policy of a config document, without its command.

        Parameters
        ----------
        source: a dict, a path, bytes, or a loaded `Document`, as for `run`.

        Raises `ConfigError` for a malformed document, `PolicyRefused` when it asks for what a `Policy` cannot
        say (the settings of another backend).
        """
        from mxc_ops.config_policy import policy_arguments

        return cls(**policy_arguments(source))

    def replace(self, **changes: Any) -> Policy:
        """This policy with some arguments changed, checked again."""
        return replace_fields(self, **changes)

    def request(self, command: str | Sequence[str]) -> SandboxRequest:
        """The request to run `command`: a str is a line for the sandbox's shell, a sequence needs no shell.

        In a virtual machine a str can be Python source: see `containment` and ``vm.command``. Raises
        `ConfigError` for an empty command, one with a NUL, or one that is not of the kind that `vm` says.
        """
        shell, args = self._split(command)
        return replace(
            self._template,
            shell=shell,
            args=args,
            vm=machine.complete(
                self._template.containment, self.vm, has_args=bool(args), runtime=self._runtime
            ),
            document_hash=Fingerprint(lambda: self._hash(shell, args)),
        )

    def as_config(self, command: str | Sequence[str]) -> dict[str, Any]:
        """The config document (version 1.1.0-alpha, with our ``mxcOps`` key) that says the same."""
        from mxc_ops.config_policy import config_from_policy

        return config_from_policy(self, *self._split(command))

    def _split(self, command: str | Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
        has_args = not isinstance(command, str)
        machine.check_runtime(self.containment, self.vm, _POINTERS, has_args=has_args)
        kind = machine.command_kind(self.containment, self.vm, has_args=has_args, runtime=self._runtime)
        return policy_checks.split_command(command, kind)

    @property
    def _of_image(self) -> bool:
        return self.containment in machine.OF_CONTAINER_IMAGES

    @property
    def _runtime(self) -> Runtime:
        return self.hyperlight.runtime if self.hyperlight else Runtime.PYTHON

    def _hash(self, shell: str | None, args: tuple[str, ...]) -> str:
        from mxc_ops.config.canonical import policy_hash
        from mxc_ops.config_policy import config_from_policy

        return policy_hash(config_from_policy(self, shell, args))

    @cached_property
    def _template(self) -> SandboxRequest:
        import sys

        from backends.registry import resolve_intent
        from mxc_ops.policy.spelling import collapse

        grants, warnings = collapse(self._grants())
        after_ms = 0 if self.timeout_s is None else max(1, round(self.timeout_s * 1000))
        containment = resolve_intent(self.containment, sys.platform)
        foreign = [
            (f"vm.{name}", value)
            for name, value in (machine.said(self.vm) if self.vm else ())
            if containment not in machine.CONTAINMENTS
        ]
        if self.system is not None and containment != "lxc":
            foreign.append(("system", str(self.system)))
        if self.hyperlight is not None and containment != "hyperlight":
            foreign.append(("hyperlight", self.hyperlight.runtime.value))
        if self.wslc is not None and containment != "wslc":
            foreign.append(("wslc", self.wslc.image_tar or self.wslc.image))
        wslc = (self.wslc or WslcSettings()) if containment == "wslc" else None
        return SandboxRequest(
            containment=containment,
            cwd=os.fspath(self.cwd) if self.cwd is not None else None if self._of_image else "/",
            environment=self._environment(),
            grants=grants,
            network=self.network if wslc is None else containers.with_ports(self.network, wslc, "wslc"),
            asked=(
                *(Asked(Feature.BACKEND_SECTION, name, value) for name, value in foreign),
                *asked_of(self.network),
                *((Asked(Feature.HOST_LOOPBACK, "host_loopback", "True"),) if self.host_loopback else ()),
            ),
            limits=self.limits,
            timeout=Timeout(after_ms, round(self.grace_s * 1000), self.timeout_signal),
            stdin=self.stdin,
            tty=self.tty,
            seccomp=self.seccomp,
            user=self.user,
            group=self.group if self.group is not None else self.user,
            hyperlight=(self.hyperlight or HyperlightSettings()) if containment == "hyperlight" else None,
            wslc=wslc,
            system=wanted_system(self.system.distribution, self.system.releases[0])
            if self.system is not None
            else System(),
            container_id=self.name,
            warnings=(*warnings, *network_warnings(self.network)),
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
        if self.env is None and self._of_image:
            return Environment()
        if self.env is None:
            from mxc_ops.policy.environment import DEFAULT_ENVIRONMENT

            return Environment(DEFAULT_ENVIRONMENT)
        return Environment(
            tuple((name, value) for name, value in self.env.items() if isinstance(value, str)),
            tuple((name, value) for name, value in self.env.items() if isinstance(value, SecretSource)),
        )


_POINTERS: Mapping[str, str] = {
    "accelerator": "vm.accelerator",
    "args": "command",
    "command_kind": "vm.command",
    "container_id": "name",
    "containment": "containment",
    "cwd": "cwd",
    "driver": "hyperlight.driver",
    "environment": "env",
    "grace_ms": "grace_s",
    "grants": "read_only",
    "group": "group",
    "hyperlight": "hyperlight",
    "image": "vm.image_name",
    "limits": "limits",
    "machine": "vm.machine",
    "network": "network",
    "runtime": "hyperlight.runtime",
    "seccomp": "seccomp",
    "secrets": "env",
    "shell": "command",
    "signal": "timeout_signal",
    "stdin": "stdin",
    "system": "system",
    "timeout": "timeout_s",
    "tty": "tty",
    "user": "user",
    "vm": "vm",
    "wslc": "wslc",
}
