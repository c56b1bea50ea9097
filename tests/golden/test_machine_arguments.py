"""QEMU's command line, for every machine type and accelerator, booted and restored, as it was recorded.

`MXC_UPDATE_GOLDEN=1` rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends.frozen import replace
from backends.qemu.machine import Disk, Machine, MachineKind, Part, arguments
from backends.qemu.template_plan import plan_template
from backends.virtual_machine import Image
from tests.vm_samples import HOST, IMAGE, QEMU, TINY

GOLDEN = Path(__file__).parent / "machine"
CASES = [(kind, accelerator) for kind in MachineKind for accelerator in ("kvm", "tcg")]

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]


def lines(machine: Machine) -> list[str]:
    """The command line, its options with their values, descriptors numbered from 100 on."""
    names = [part.value for part in Part] + [disk.name for disk in machine.disks]
    words = arguments(machine, {name: number for number, name in enumerate(names, start=100)})
    return " ".join(words).replace(" -", "\n-").split("\n")


def machines(image: Image, kind: MachineKind, accelerator: str, *, cpus: int) -> dict[str, list[str]]:
    plan = plan_template(image, QEMU, HOST, kind=kind, accelerator=accelerator, memory_mib=192, cpus=cpus)
    linked = replace(plan.clone, tap=True)
    return {"booted": lines(plan.booted), "clone": lines(plan.clone), "clone with a way out": lines(linked)}


@pytest.mark.parametrize(("kind", "accelerator"), CASES)
def test_the_command_line_is_as_recorded(kind: MachineKind, accelerator: str) -> None:
    found = {
        "with a root file system": machines(IMAGE, kind, accelerator, cpus=1),
        "of an initrd alone": machines(TINY, kind, accelerator, cpus=2),
    }
    text = json.dumps(found, indent=1) + "\n"
    golden = GOLDEN / f"{kind.value}-{accelerator}.json"
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_a_machine_of_its_own_is_as_recorded() -> None:
    """What no template has: a disk that is written to, no network card."""
    plan = plan_template(IMAGE, QEMU, HOST, kind=MachineKind.Q35, accelerator="tcg", memory_mib=512, cpus=2)
    disks = (Disk("rootfs"), Disk("data", read_only=False))
    text = json.dumps(lines(replace(plan.booted, disks=disks, network=False)), indent=1) + "\n"
    golden = GOLDEN / "writable-disk.json"
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()
