"""What is laid out for a container in a shared machine: its disks, its key, what is refused beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.base import FilesystemView, Limits, SandboxRequest
from backends.container_image import ContainerImage
from backends.errors import PolicyRefused
from backends.frozen import replace
from backends.inside.agent_protocol import GuestMount
from backends.vm.facts import VmFacts
from backends.vm.plan import VmPlan
from backends.wslc import BACKEND
from backends.wslc.shared.plan import DISKS, SLOTS, grants_on
from backends.wslc.shared.talk import order, read_order
from backends.wslc_settings import WslcSettings
from tests import policy_view
from tests.vm_samples import IMAGE, ROOT_FACTS, USER_FACTS

FOUND = ContainerImage("docker.io/library/box:1", "ab" * 32, "cd" * 32, "", "", "/srv/rootfs.erofs", 1 << 30)
SETTINGS = WslcSettings(image="box:1", shared_vm=True, found=FOUND)


def planned(
    settings: WslcSettings = SETTINGS,
    facts: VmFacts = USER_FACTS,
    view: FilesystemView | None = None,
    limits: Limits = Limits(),  # noqa: B008 - it never changes
) -> VmPlan:
    from backends.virtual_machine import VirtualMachine

    machine = VirtualMachine("utility", IMAGE)
    request = SandboxRequest("wslc", shell="true", vm=machine, wslc=settings, limits=limits)
    plan = BACKEND.plan(request, facts, view or FilesystemView())
    assert isinstance(plan, VmPlan)
    return plan


def key(plan: VmPlan) -> str:
    assert plan.container is not None
    return plan.container.machine


def test_images_grants_and_limits_are_not_what_tells_machines_apart() -> None:
    other = replace(SETTINGS, found=replace(FOUND, key="ef" * 32, rootfs_bytes=8 << 30))
    same = {
        key(planned()),
        key(planned(other)),
        key(planned(view=policy_view.VIEW)),
        key(planned(limits=Limits(memory_mib=64))),
    }
    assert len(same) == 1 and same != {""}


def test_what_is_measured_anew_by_each_process_is_not() -> None:
    measured = replace(USER_FACTS.host, tsc_khz=USER_FACTS.host.tsc_khz + 1000)
    assert key(planned(facts=replace(USER_FACTS, host=measured))) == key(planned())


def test_size_and_user_are() -> None:
    plans = (
        planned(),
        planned(replace(SETTINGS, memory_mib=1024)),
        planned(replace(SETTINGS, cpus=2)),
        planned(facts=ROOT_FACTS),
    )
    assert len({key(plan) for plan in plans}) == len(plans)
    assert key(planned(replace(SETTINGS, shared_vm=False))) == ""


def test_every_slot_has_a_device_of_its_own_and_a_microvm_has_room_for_them() -> None:
    template = planned().template
    devices = {template.device(disk.name) for disk in DISKS}
    assert len(devices) == 2 * SLOTS
    assert len(template.clone.disks) + 2 <= 24, "with the card and the channels"


def test_read_only_grants_are_mounted_from_the_disk_that_is_given_out() -> None:
    plan = planned(view=policy_view.VIEW)
    sources = {step.source for step in plan.files.guest_steps if isinstance(step, GuestMount)}
    assert "" in sources and not any(source.startswith("/dev/") for source in sources)
    mounted = [step for step in grants_on(plan.files, "/dev/vdx").guest_steps if isinstance(step, GuestMount)]
    (disk,) = [step for step in mounted if step.source == "/dev/vdx"]
    assert disk.file_system not in ("", "tmpfs")


def test_a_container_has_its_limits_and_what_its_agent_takes() -> None:
    plan = planned(limits=Limits(memory_mib=64, pids=10, cpus=0.5))
    assert plan.container is not None
    group = dict(plan.container.spec.cgroup)
    assert (group["memory.max"], group["pids.max"]) == (str((64 + 16) << 20), "18")
    assert group["cpu.max"] == dict(plan.command.cgroup)["cpu.max"]
    assert "memory.oom.group" not in group and dict(plan.command.cgroup)["pids.max"] == "10"
    assert plan.container.spec.own_network


def test_an_order_says_all_of_a_container_but_its_disk() -> None:
    plan = planned(limits=Limits(memory_mib=64))
    assert plan.container is not None
    spec = plan.container.spec
    said = json.loads(json.dumps(order(spec, ["root", "held"])))
    with Path("/bin/sh").open() as one, Path("/bin/sh").open() as other:
        files = [one.fileno(), other.fileno()]
        assert read_order(said, files) == (spec, {"root": files[0], "held": files[1]})


def test_an_image_that_no_slot_holds_is_refused() -> None:
    with pytest.raises(PolicyRefused) as caught:
        planned(replace(SETTINGS, found=replace(FOUND, rootfs_bytes=16 << 30)))
    assert caught.value.problems[0].code == "shared_vm_image_size"


def test_the_plan_names_the_machine_and_says_what_holds() -> None:
    plan = planned()
    enforced = dict(plan.enforced)
    assert key(plan) in enforced["isolation"] and "share" in enforced["isolation"]
    assert "loopback" in enforced["network"]
    assert json.dumps(plan.as_dict()).count(key(plan)) == 2
