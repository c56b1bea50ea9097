"""What a template is made from, and the key under which exactly that is found again (pure).

Design §3, Keys: image, QEMU, machine, host values. Whatever a restored clone must share with its template is
in the key, so that a template that no longer fits is never found.
"""

from __future__ import annotations

import json
from string import ascii_lowercase

from backends.digest import sha256
from backends.frozen import frozen
from backends.qemu.choice import QemuProgram
from backends.qemu.host_values import HostValues
from backends.qemu.machine import Boot, Disk, Machine, MachineKind, Part, arguments
from backends.virtual_machine import Image

__all__ = ["FORMAT", "GRANTS", "GRANTS_BYTES", "DataDisk", "TemplatePlan", "plan_template"]

FORMAT = 1
"""Raised when what is stored, or what is warmed up before, changes."""

GRANTS_BYTES = 16 << 30
"""Size of the disk that carries read-only grants."""

_ROOTFS = "rootfs"


@frozen
class DataDisk:
    """A disk that is a hole in the template; what a clone is given instead must be of just this size.

    `name` is no other disk's, and no `Part`'s. `for_container`: it will hold the root of a container, and the
    template is made when one was started from an empty one and ended: then it takes a clone less.
    """

    name: str
    size_bytes: int
    read_only: bool = True
    for_container: bool = False


GRANTS = DataDisk("grants", GRANTS_BYTES)


@frozen
class TemplatePlan:
    """`booted` is the machine that becomes the template, `clone` the one that is restored from it."""

    key: str
    image: Image
    qemu_build: str
    booted: Machine
    clone: Machine
    disks: tuple[DataDisk, ...]

    def device(self, name: str) -> str:
        """A disk, as the guest names it. Raises `ValueError` for a name that none has."""
        names = [disk.name for disk in self.clone.disks]
        return f"/dev/vd{ascii_lowercase[names.index(name)]}"

    @property
    def grants_device(self) -> str:
        """The grants' disk, as the guest names it."""
        return self.device(GRANTS.name)


def plan_template(
    image: Image,
    qemu: QemuProgram,
    host: HostValues,
    *,
    kind: MachineKind,
    accelerator: str,
    memory_mib: int,
    cpus: int,
    data: tuple[DataDisk, ...] = (GRANTS,),
) -> TemplatePlan:
    """Lay out a template.

    Parameters
    ----------
    memory_mib: of the guest.
    data: its disks after the image's own, in their order.
    """
    disks = (Disk(_ROOTFS),) if image.rootfs else ()
    disks += tuple(Disk(disk.name, disk.read_only) for disk in data)
    clone = Machine(qemu.path, kind, accelerator, memory_mib, cpus, disks=disks)
    booted = Machine(
        qemu.path,
        kind,
        accelerator,
        memory_mib,
        cpus,
        boot=Boot(_command_line(image, host, kind, accelerator, cpus)),
        memory_shared=True,
        disks=disks,
    )
    key = _key(image, qemu, host, booted, data)
    return TemplatePlan(key, image, qemu.build, booted, clone, data)


def _command_line(image: Image, host: HostValues, kind: MachineKind, accelerator: str, cpus: int) -> str:
    words = [image.command_line]
    if accelerator == "tcg":
        # QEMU finds its translations by address: a program that lies elsewhere each time is translated anew.
        words.append("norandmaps")
        if host.tsc_khz:
            words.append(f"tsc_early_khz={host.tsc_khz}")
    if cpus == 1 and kind is MachineKind.MICROVM:
        words.append("noreplace-smp")  # saves 0.2 s of patching that one processor does not need
    return " ".join(words)


def _key(
    image: Image, qemu: QemuProgram, host: HostValues, booted: Machine, data: tuple[DataDisk, ...]
) -> str:
    names = (*(part.value for part in Part), *(disk.name for disk in booted.disks))
    shape = arguments(booted, {name: number for number, name in enumerate(names, start=100)})
    parts = {
        "format": FORMAT,
        "image": [image.key, image.content],
        "qemu": qemu.build,
        "arguments": shape,
        "cpu": host.cpu,
        "disks": [[disk.name, disk.size_bytes, disk.for_container] for disk in data],
        "warmUp": image.warm_up,
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
