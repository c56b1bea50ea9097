"""Plans of virtual machines are data: the same request and facts give the same plan on any host.

`MXC_UPDATE_GOLDEN=1` rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends.base import Environment, FilesystemView, Limits, SandboxRequest, SecretSource, Timeout
from backends.frozen import replace
from backends.qemu.machine import MachineKind
from backends.virtual_machine import CommandKind, VirtualMachine
from backends.vm.facts import VmFacts
from backends.vm.plan import make_plan
from tests import network_samples as networks
from tests import policy_view
from tests.vm_samples import IMAGE, ROOT_FACTS, TINY, USER_FACTS

GOLDEN = Path(__file__).parent / "vm"

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

SHELL = SandboxRequest("vm", shell="echo hello", vm=VirtualMachine("python", IMAGE))
PYTHON = SandboxRequest(
    "microvm", shell="print(1)", vm=VirtualMachine("python", IMAGE, command=CommandKind.PYTHON)
)
VIEW = replace(policy_view.VIEW, decisions=("/srv/project: read-write",))
ALL_LIMITS = Limits(
    memory_mib=64, pids=10, cpus=0.5, cpu_seconds=3, file_size_mib=1, open_files=64, tmp_mib=8
)
ENVIRONMENT = Environment((("A", "secret value"),), (("TOKEN", SecretSource(file="/run/token")),))

CASES: dict[str, tuple[SandboxRequest, VmFacts, FilesystemView]] = {
    "vm-shell-user": (SHELL, USER_FACTS, FilesystemView()),
    "vm-grants-user": (SHELL, USER_FACTS, VIEW),
    "vm-grants-root": (SHELL, ROOT_FACTS, VIEW),
    "vm-args-limits-root": (
        replace(
            SHELL,
            shell=None,
            args=("/usr/bin/printf", "%s", "a b"),
            environment=ENVIRONMENT,
            cwd="/tmp",
            seccomp="strict",
            limits=ALL_LIMITS,
            timeout=Timeout(5000, 200, "INT"),
        ),
        ROOT_FACTS,
        FilesystemView(),
    ),
    "vm-q35-kvm-sized": (
        replace(SHELL, tty=True, vm=VirtualMachine("tiny", TINY, memory_mib=512, cpus=2)),
        replace(ROOT_FACTS, kind=MachineKind.Q35, accelerator="kvm"),
        FilesystemView(),
    ),
    "vm-network": (
        replace(SHELL, network=replace(networks.NAMES, allow=networks.RULES.allow)),
        replace(ROOT_FACTS, network=networks.FACTS),
        FilesystemView(),
    ),
    "microvm-python-user": (PYTHON, USER_FACTS, FilesystemView()),
    "microvm-python-root": (replace(PYTHON, args=("one", "two")), ROOT_FACTS, VIEW),
}


@pytest.mark.parametrize("name", CASES)
def test_plan_is_as_recorded(name: str) -> None:
    text = json.dumps(make_plan(*CASES[name]).as_dict(), indent=1, sort_keys=True) + "\n"
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
