"""Plans of what is a user of the VM engine: Hyperlight's runtimes, and containers in a utility VM.

`MXC_UPDATE_GOLDEN=1` rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends import registry
from backends.base import FilesystemView, Limits, SandboxRequest
from backends.container_image import ContainerImage, ImageUser
from backends.frozen import replace
from backends.guest_files.places import GuestPlaces
from backends.hyperlight_settings import Driver, HyperlightSettings, Runtime
from backends.virtual_machine import CommandKind, VirtualMachine
from backends.vm.facts import VmFacts
from backends.wslc_settings import WslcSettings
from tests import network_samples as networks
from tests.policy_view import VIEW
from tests.vm_samples import IMAGE, ROOT_FACTS, USER_FACTS

GOLDEN = Path(__file__).parent / "engine_users"

pytestmark = [pytest.mark.backend("hyperlight"), pytest.mark.backend("wslc")]

PRINT = SandboxRequest(
    "hyperlight",
    shell="print(1)",
    vm=VirtualMachine("python", IMAGE, command=CommandKind.PYTHON),
    hyperlight=HyperlightSettings(Runtime.PYTHON, Driver.QEMU, "asked for"),
)
BASH = replace(
    PRINT,
    shell="ls /host",
    vm=VirtualMachine("base", IMAGE, command=CommandKind.BASH),
    hyperlight=HyperlightSettings(Runtime.BASH, Driver.QEMU, "no hypervisor"),
)
AT_HOST = GuestPlaces((("/srv/project", "/host/project"),))
FOUND = ContainerImage("docker.io/library/box:1", "ab" * 32, "cd" * 32, "", "", "/srv/rootfs.erofs", 1 << 30)
BOX = SandboxRequest(
    "wslc",
    shell="echo hello",
    vm=VirtualMachine("utility", IMAGE),
    wslc=WslcSettings(image="box:1", found=FOUND),
)
SHARED = replace(BOX, wslc=WslcSettings(image="box:1", found=FOUND, shared_vm=True))
SIZED = replace(
    BOX,
    wslc=WslcSettings(
        image="box:1",
        found=replace(
            FOUND,
            rootfs_bytes=8 << 30,
            user=ImageUser(1000, 1000, (), "/home/box"),
            working_dir="/app",
            env=(("PATH", "/opt/bin:/bin"), ("LANG", "C")),
        ),
        cpus=2,
        memory_mib=512,
        storage="/srv/project",
    ),
    limits=Limits(memory_mib=64, pids=10),
    network=networks.RULES,
)

CASES: dict[str, tuple[SandboxRequest, VmFacts, FilesystemView]] = {
    "hyperlight-python-user": (PRINT, USER_FACTS, FilesystemView()),
    "hyperlight-bash-grants-root": (BASH, replace(ROOT_FACTS, shown_at=AT_HOST), VIEW),
    "wslc-user": (BOX, USER_FACTS, FilesystemView()),
    "wslc-grants-root": (BOX, ROOT_FACTS, VIEW),
    "wslc-sized-network-root": (SIZED, replace(ROOT_FACTS, network=networks.FACTS), FilesystemView()),
    "wslc-shared-grants-root": (SHARED, ROOT_FACTS, VIEW),
}


@pytest.mark.parametrize("name", CASES)
def test_plan_is_as_recorded(name: str) -> None:
    request, facts, view = CASES[name]
    plan = registry.get(request.containment).plan(request, facts, view)
    text = json.dumps(plan.as_dict(), indent=1, sort_keys=True) + "\n"
    golden = GOLDEN / f"{name}.json"
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
