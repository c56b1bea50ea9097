"""What a container in a shared machine is, and what it cannot have. Pure.

Such a machine has slots: disks that are holes in its template. A container's image, and the disk with its
read-only grants, are put behind one each while it is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from backends.base import SandboxRequest
from backends.digest import sha256
from backends.errors import PolicyRefused, Problem
from backends.frozen import replace
from backends.guest_files.plan import FilesPlan, GuestStep
from backends.inside.agent_protocol import GuestMount
from backends.launched.identity import Identity
from backends.qemu.choice import QemuProgram
from backends.qemu.template_plan import GRANTS, DataDisk, TemplatePlan, plan_template
from backends.vm.container import ROOT_SIZES
from backends.vm.facts import VmFacts
from backends.vm.plan import VmPlan
from backends.wslc_settings import WslcSettings

__all__ = [
    "ALONE",
    "DISKS",
    "GRANT_SLOTS",
    "POINTER",
    "ROOT_SLOTS",
    "SLOTS",
    "grants_on",
    "machine_key",
    "share",
    "unshared",
]

SLOTS = 8
"""Containers at once in one machine. A microvm has places for 24 devices; each of these may take two."""

ROOT_SLOTS = tuple(f"root{number}" for number in range(SLOTS))
GRANT_SLOTS = tuple(f"grants{number}" for number in range(SLOTS))
DISKS = (
    *(DataDisk(name, ROOT_SIZES[-1], for_container=name == ROOT_SLOTS[0]) for name in ROOT_SLOTS),
    *(DataDisk(name, GRANTS.size_bytes) for name in GRANT_SLOTS),
)
POINTER = "/mxcOps/wslc/sharedVm"

_FORMAT = 1  # of what is said to the utility host
_KEY_LETTERS = 32
ALONE = f"remove {POINTER}: the container then has a machine of its own"
_OF_AGENT = {"memory.max": 16 << 20, "pids.max": 8}
"""What the agent of a container takes, beside its commands, which are under the very limits."""


def unshared(request: SandboxRequest, settings: WslcSettings) -> Iterator[Problem]:
    """What a document asks for beside a shared machine that no container in one can have."""
    pointer = request.pointers.get("wslc", "/wslc")
    if settings.ports:
        place, what = (
            f"{pointer}/portMappings",
            "ports of the host lead into a machine, not into one of several",
        )
        yield Problem("shared_vm_network", place, f"{what} containers in it", fix=ALONE)
    elif not request.network.is_isolated:
        message = (
            "containers that share a machine have no network: its one card has one set of rules, and they"
            " would reach each other by it"
        )
        yield Problem("shared_vm_network", POINTER, message, expected="no network", fix=ALONE)
    if settings.storage:
        message = "what a container in a shared machine writes is kept in the machine's memory"
        yield Problem("shared_vm_storage", f"{pointer}/storagePath", message, fix=ALONE)


def share(plan: VmPlan, facts: VmFacts) -> VmPlan:
    """The same run in a shared machine instead of one of its own.

    Raises `PolicyRefused` for an image that no slot holds.
    """
    container, machine = plan.container, plan.template.clone
    assert container is not None  # it is of a container
    slot = DISKS[0]
    if container.image.rootfs_bytes > slot.size_bytes:
        message = f"the image {container.image.reference!r} is larger than any disk of a shared machine"
        expected = f"an image of {slot.size_bytes >> 30} GiB at most"
        raise PolicyRefused(Problem("shared_vm_image_size", POINTER, message, expected=expected, fix=ALONE))
    template = plan_template(
        plan.template.image,
        QemuProgram(machine.qemu, plan.template.qemu_build),
        facts.host,
        kind=machine.kind,
        accelerator=machine.accelerator,
        memory_mib=machine.memory_mib,
        cpus=machine.cpus,
        data=DISKS,
    )
    key = machine_key(template, plan.confinement.identity)
    spec = replace(container.spec, root="", own_network=True, cgroup=tuple(_group(plan.limits.cgroup)))
    return replace(
        plan,
        template=template,
        files=_from(plan.files, plan.template.grants_device, ""),
        container=replace(container, root=slot, spec=spec, machine=key),
        enforced=tuple(_enforced(plan, key)),
    )


def machine_key(template: TemplatePlan, identity: Identity) -> str:
    """What a shared machine is found by: all that its containers have in common.

    Not the template's key: what was measured of the host is in that, and two of us may differ in it.
    """
    image = template.image
    machine = [image.key, image.content, template.qemu_build, repr(template.clone)]
    parts = [_FORMAT, *machine, identity.kind, identity.uid]
    return sha256(json.dumps(parts).encode()).hexdigest()[:_KEY_LETTERS]


def grants_on(files: FilesPlan, device: str) -> FilesPlan:
    """The files of a shared plan, whose read-only grants are on that disk of the guest."""
    return _from(files, "", device)


def _from(files: FilesPlan, old: str, new: str) -> FilesPlan:
    def moved(step: GuestStep) -> GuestStep:
        if isinstance(step, GuestMount) and step.file_system not in ("", "tmpfs") and step.source == old:
            return replace(step, source=new)
        return step

    return replace(files, guest_steps=tuple(moved(step) for step in files.guest_steps))


def _group(limits: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, str]]:
    """The control group of all that is in a container, so that it takes nothing from its neighbours."""
    for file, text in limits:
        if file != "memory.oom.group":  # that a command is killed is not the end of its container
            more = _OF_AGENT.get(file, 0)
            yield file, str(int(text) + more) if more and text.isdigit() else text


def _enforced(plan: VmPlan, key: str) -> Iterator[tuple[str, str]]:
    machine = plan.template.clone
    for what, mechanism in plan.enforced:
        if what == "isolation":
            where = f"{key} ({machine.kind.value}, {machine.accelerator})"
            yield what, f"a container, in a virtual machine that its owner's containers share: {where}"
        elif what == "container":
            yield what, f"{mechanism}; network, control group and disks of its own, too"
        elif what == "network":
            yield what, "a network namespace with nothing but a loopback"
        else:
            yield what, mechanism.replace("for this sandbox alone", "for the shared machine alone")
