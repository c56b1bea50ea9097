"""The container in a machine that the commands of ``wslc`` run in. Pure.

Its root is a disk of the machine: the image's file, which has the very size of the disk that the template was
made with (lab §5). So there are few sizes, and an image's file is padded to the next one.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.container_image import ContainerImage
from backends.frozen import frozen
from backends.guest_etc import HOSTNAME
from backends.inside.agent_protocol import GuestContainer, MountFlag
from backends.qemu.template_plan import GRANTS, DataDisk, TemplatePlan

__all__ = [
    "ROOT_SIZES",
    "UPPER",
    "PlannedContainer",
    "container_disks",
    "plan_container",
    "root_size",
    "with_image_environment",
]

_GIB = 1 << 30
ROOT_SIZES = (_GIB, 8 * _GIB)
"""Bytes of the disk that an image is on: the least that holds it, else the next multiple of the last."""

ROOT = "container"
UPPER = DataDisk("written", 8 * _GIB, read_only=False)
"""The disk for what is written, where that is not kept in memory."""

_PATH = ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


@frozen
class PlannedContainer:
    """`storage` is the host's directory with the disk for what is written; "" keeps that in memory.

    `machine` is the key of a machine that it shares with others, whose disks are given out as it starts.
    """

    image: ContainerImage
    root: DataDisk
    spec: GuestContainer
    storage: str = ""
    machine: str = ""

    def as_dict(self) -> dict[str, object]:
        """JSON-safe."""
        image, spec = self.image, self.spec
        return {
            "reference": image.reference,
            "key": image.key,
            "digest": image.digest,
            "disk": {"device": spec.root, "bytes": self.root.size_bytes, "type": spec.file_system},
            "written": {"device": spec.upper, "storage": self.storage} if spec.upper else "in memory",
            "user": {"uid": image.user.uid, "gid": image.user.gid},
            "hostname": spec.hostname,
            "flags": [flag.name for flag in MountFlag if flag in spec.flags],
            **({"sharedMachine": self.machine} if self.machine else {}),
        }


def root_size(image_bytes: int) -> int:
    """Bytes of the disk that an image of so many bytes is on."""
    largest = ROOT_SIZES[-1]
    fitting = (size for size in ROOT_SIZES if size >= image_bytes)
    return next(fitting, -(-image_bytes // largest) * largest)


def container_disks(image: ContainerImage) -> tuple[DataDisk, ...]:
    """The disks of a machine for one container of this image."""
    return DataDisk(ROOT, root_size(image.rootfs_bytes), for_container=True), GRANTS, UPPER


def plan_container(image: ContainerImage, template: TemplatePlan, storage: str) -> PlannedContainer:
    """Lay out the container.

    Parameters
    ----------
    template: made with the `container_disks` of the image.
    storage: a directory of the host, or "".
    """
    root = template.disks[0]
    spec = GuestContainer(
        template.device(root.name),
        HOSTNAME,
        upper=template.device(UPPER.name) if storage else "",
        flags=MountFlag.NO_DEV | MountFlag.NO_SUID,
    )
    return PlannedContainer(image, root, spec, storage)


def with_image_environment(
    image: ContainerImage, entries: Iterable[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """What a command gets: what the image sets, and over that what it is given; a PATH in any case, and the
    home of its user, if that has one."""
    first = (_PATH, *([("HOME", image.user.home)] if image.user.home else ()))
    return tuple((dict(first) | dict(image.env) | dict(entries)).items())
