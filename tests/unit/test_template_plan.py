"""A template's key: two templates are the same exactly when all that must match does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.frozen import replace
from backends.qemu.choice import QemuProgram
from backends.qemu.host_values import HostValues
from backends.qemu.machine import MachineKind
from backends.qemu.template_plan import GRANTS, DataDisk, TemplatePlan, plan_template
from tests.vm_samples import HOST, IMAGE, QEMU, TINY

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

MATTERS: Mapping[str, tuple[Any, ...]] = {
    "key": ("4b" * 32, "4c" * 32),
    "content": ("c0" * 32, "c1" * 32),
    "command_line": (IMAGE.command_line, "quiet", "quiet "),
    "warm_up": ("", "python3 -c pass"),
    "has_rootfs": (True, False),
    "qemu": (QEMU.path, "/opt/qemu/bin/qemu-system-x86_64"),
    "build": (QEMU.build, "118bb20-18b2e9cc-21204e"),
    "cpu": (HOST.cpu, "another"),
    "kind": tuple(MachineKind),
    "accelerator": ("kvm", "tcg"),
    "memory_mib": (128, 256),
    "cpus": (1, 2, 3),
    "tsc_khz": (0, 2_600_000, 2_601_000),
    "data": (
        (GRANTS,),
        (),
        (replace(GRANTS, size_bytes=1 << 30),),
        (replace(GRANTS, read_only=False),),
        (replace(GRANTS, for_container=True),),
        (GRANTS, DataDisk("root", 1 << 30)),
        (DataDisk("root", 1 << 30), GRANTS),
    ),
}
DOES_NOT_MATTER: Mapping[str, tuple[Any, ...]] = {
    "name": ("python", "mine"),
    "folder": ("/store/4b", "/elsewhere"),
    "default_memory_mib": (128, 512),
}
VALUES = {**MATTERS, **DOES_NOT_MATTER}
INPUTS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()})
CHANGES = st.sets(st.sampled_from(sorted(VALUES)), max_size=2)


def planned(inputs: Mapping[str, Any]) -> TemplatePlan:
    folder = inputs["folder"]
    image = replace(
        IMAGE,
        name=inputs["name"],
        key=inputs["key"],
        content=inputs["content"],
        kernel=f"{folder}/vmlinux",
        initrd=f"{folder}/initrd",
        rootfs=f"{folder}/rootfs.erofs" if inputs["has_rootfs"] else "",
        command_line=inputs["command_line"],
        memory_mib=inputs["default_memory_mib"],
        warm_up=inputs["warm_up"],
    )
    return plan_template(
        image,
        QemuProgram(inputs["qemu"], inputs["build"]),
        HostValues(inputs["tsc_khz"], inputs["cpu"]),
        kind=inputs["kind"],
        accelerator=inputs["accelerator"],
        memory_mib=inputs["memory_mib"],
        cpus=inputs["cpus"],
        data=inputs["data"],
    )


def what_matters(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The rate of the host's counter is the guest's business under TCG alone."""
    found = {name: inputs[name] for name in MATTERS}
    return found if found["accelerator"] == "tcg" else {**found, "tsc_khz": None}


@given(INPUTS, INPUTS, CHANGES)
def test_a_key_changes_with_what_must_match_and_with_nothing_else(
    inputs: dict[str, Any], others: dict[str, Any], changes: set[str]
) -> None:
    changed = {**inputs, **{name: others[name] for name in changes}}
    same = what_matters(inputs) == what_matters(changed)
    assert (planned(inputs).key == planned(changed).key) == same


@pytest.mark.parametrize("name", [name for name in MATTERS if name != "tsc_khz"])
def test_each_input_that_must_match_changes_the_key_by_itself(name: str) -> None:
    inputs = {field: values[0] for field, values in VALUES.items()}
    keys = {planned({**inputs, name: value}).key for value in MATTERS[name]}
    assert len(keys) == len(MATTERS[name])


@given(INPUTS)
def test_the_kernel_is_told_what_it_cannot_find_out_and_nothing_else(inputs: dict[str, Any]) -> None:
    plan = planned(inputs)
    assert plan.booted.boot is not None
    words = [inputs["command_line"]]
    if inputs["accelerator"] == "tcg":
        words += ["norandmaps"] + [f"tsc_early_khz={inputs['tsc_khz']}"] * bool(inputs["tsc_khz"])
    if inputs["cpus"] == 1 and inputs["kind"] is MachineKind.MICROVM:
        words.append("noreplace-smp")
    assert plan.booted.boot.command_line == " ".join(words)


@given(INPUTS)
def test_a_clone_is_the_booted_machine_without_its_boot(inputs: dict[str, Any]) -> None:
    plan = planned(inputs)
    assert replace(plan.booted, boot=None, memory_shared=False) == plan.clone


@pytest.mark.parametrize(("image", "device"), [(IMAGE, "/dev/vdb"), (TINY, "/dev/vda")])
def test_the_disk_of_grants_is_the_last_one(image: Any, device: str) -> None:
    plan = plan_template(image, QEMU, HOST, kind=MachineKind.Q35, accelerator="tcg", memory_mib=96, cpus=1)
    assert plan.grants_device == device
    assert plan.clone.disks[-1].name == "grants"
    assert all(disk.read_only for disk in plan.clone.disks)


@given(INPUTS)
def test_disks_are_named_in_their_order_after_the_images_own(inputs: dict[str, Any]) -> None:
    plan = planned(inputs)
    names = (["rootfs"] if inputs["has_rootfs"] else []) + [disk.name for disk in inputs["data"]]
    assert [plan.device(name) for name in names] == [f"/dev/vd{letter}" for letter in "abc"[: len(names)]]
    with pytest.raises(ValueError):
        plan.device("another")
