"""A backend that stands for one with virtual machines: it tells what it was given, and answers what is set.

It runs nothing but ``true``: what comes before and after a machine is what its users test.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from backends import registry
from backends.base import FilesystemView, Handles, Observed, SandboxRequest, Streams
from backends.ended import Ended, Outcome, Usage
from backends.features import Capabilities
from backends.virtual_machine import Image

IMAGE = Image(
    "python", "0" * 64, "1" * 64, "/i/vmlinux", "/i/initrd", "/i/rootfs", "erofs", "quiet", 256, "python"
)
MODULE = "tests.unit.stand_in"


@dataclass(frozen=True)
class Facts:
    baseline_trees: tuple[str, ...] = ()
    own_paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    request: SandboxRequest
    enforced: tuple[tuple[str, str], ...] = (("network", "no network card"),)
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        vm = self.request.vm
        assert vm is not None and vm.image is not None and vm.command is not None
        return {
            "backend": self.request.containment,
            "helper": {"version": "7.2"},
            "launcher": {"key": "0"},
            "image": vm.image.name,
            "accelerator": vm.accelerator,
            "command": {vm.command.value: self.request.shell or list(self.request.args)},
        }


class NoHandles:
    def fileno(self, slot: int) -> int:
        raise KeyError(slot)

    def close(self) -> None: ...


class Machine:
    def __init__(self, ended: Ended) -> None:
        self._child = subprocess.Popen(["true"])
        self.pid = self._child.pid
        self.pidfd = os.pidfd_open(self.pid)
        self._ended = ended

    def signal(self, signal_number: int) -> None:
        self._child.send_signal(signal_number)

    def kill(self) -> None:
        self._child.kill()

    def wait(self, timeout_s: float | None = None) -> Ended | None:
        if self.pidfd >= 0:
            self._child.wait(timeout_s)
            os.close(self.pidfd)
            self.pidfd = -1
        return self._ended


@dataclass
class StandIn:
    """`observed` has the requests that it was asked about."""

    ended: Ended = Ended(Outcome.EXITED, 0, None, Usage())  # noqa: RUF009 - frozen
    capabilities: Capabilities = Capabilities("vm", {}, {}, frozenset(), interactive_tty=False)  # noqa: RUF009
    observed: list[SandboxRequest] = field(default_factory=list[SandboxRequest])

    def observe(self, request: SandboxRequest) -> Observed:
        self.observed.append(request)
        return Observed(Facts(), (), NoHandles())

    def plan(self, request: SandboxRequest, facts: Any, view: FilesystemView) -> Plan:
        return Plan(request)

    def launch(
        self, plan: Any, handles: Handles, streams: Streams, secrets: tuple[tuple[str, str], ...] = ()
    ) -> Machine:
        return Machine(self.ended)


def put_in_place(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Let a stand-in be the backend of ``microvm`` and ``vm``; images are looked up as ever."""
    import sys

    stand_in, module = StandIn(), ModuleType(MODULE)
    module.__dict__["BACKEND"] = stand_in
    monkeypatch.setitem(sys.modules, MODULE, module)
    entry = registry.Entry(MODULE, ("linux",))
    monkeypatch.setattr(registry, "CONTAINMENTS", {**registry.CONTAINMENTS, "microvm": entry, "vm": entry})
    return stand_in
