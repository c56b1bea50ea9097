"""What a host must have for microVMs, as data (host-prep.md §1, §9)."""

from __future__ import annotations

from collections.abc import Iterable

from backends.inside import toolchain
from backends.needs import Need, NeedKind, chosen

__all__ = ["IMAGE", "IMAGE_STORE", "NEEDS", "image_needs", "needs"]

MACHINES = ("x86_64",)  # QEMU has the machine type microvm for x86 only
IMAGE_STORE = "/var/lib/mxc-ops/images"
IMAGE = "python"
"""The image of the store that machines start from, unless another is named."""


def image_needs(backend: str) -> tuple[Need, ...]:
    """What a backend needs whose machines start from an image of ours: the image, and what builds one."""
    return (
        Need(
            f"{backend}.package.image-tools",
            NeedKind.PACKAGE,
            "kernel, initrd and root file system of an image are packed from Debian packages, by apt",
            packages={
                "debian": (
                    *("mmdebstrap", "erofs-utils", "squashfs-tools", "kmod", "lz4", "zstd"),
                    *("python3-pip", "uidmap"),
                )
            },
            feature="build",
            machines=MACHINES,
        ),
        Need(
            f"{backend}.package.compiler",
            NeedKind.PACKAGE,
            "the agent inside an image is compiled when the image is built",
            packages={"debian": toolchain.PACKAGES["debian"]},
            feature="build",
            machines=MACHINES,
        ),
        Need(
            f"{backend}.image.python",
            NeedKind.IMAGE,
            "kernel, initrd and root file system that the machines start from",
            data={"image": IMAGE, "path": IMAGE_STORE},
            feature="image",
            machines=MACHINES,
        ),
    )


NEEDS: tuple[Need, ...] = (
    Need(
        "microvm.package.qemu",
        NeedKind.PACKAGE,
        "QEMU runs the machines, with its firmware for the machine type microvm",
        packages={
            "debian": ("qemu-system-x86",),
            # The one name that Fedora and RHEL share; RHEL's QEMU has q35 but not microvm.
            "fedora": ("qemu-kvm-core",),
            "alpine": ("qemu-system-x86_64",),
            "arch": ("qemu-system-x86",),
            "suse": ("qemu-x86", "qemu-microvm"),
        },
        machines=MACHINES,
    ),
    Need(
        "microvm.device.kvm",
        NeedKind.DEVICE,
        "members of the group kvm may use the processor's virtualisation, where it works",
        data={"path": "/dev/kvm", "group": "kvm"},
        machines=MACHINES,
    ),
    *image_needs("microvm"),
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
