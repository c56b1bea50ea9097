"""What a host must have for microVMs, as data (host-prep.md §1, §9)."""

from __future__ import annotations

from collections.abc import Iterable

from backends.inside import toolchain
from backends.needs import Need, NeedKind, chosen

__all__ = ["IMAGE", "NEEDS", "needs"]

MACHINES = ("x86_64",)  # QEMU has the machine type microvm for x86 only
IMAGE = "/var/lib/mxc-ops/images/microvm-debian"

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
    Need(
        "microvm.package.image-tools",
        NeedKind.PACKAGE,
        "kernel, initrd and root file system of an image are packed from Debian packages",
        packages={
            "debian": ("mmdebstrap", "erofs-utils", "squashfs-tools", "kmod", "lz4", "xz-utils", "zstd"),
            "fedora": ("mmdebstrap", "erofs-utils", "squashfs-tools", "kmod", "lz4", "xz", "zstd"),
            "alpine": (
                *("debootstrap", "debian-archive-keyring", "dpkg"),
                *("erofs-utils", "squashfs-tools", "kmod", "lz4", "xz", "zstd"),
            ),
            "arch": (
                *("debootstrap", "debian-archive-keyring", "dpkg"),
                *("erofs-utils", "squashfs-tools", "kmod", "lz4", "xz", "zstd"),
            ),
            "suse": ("debootstrap", "dpkg", "erofs-utils", "squashfs", "kmod", "lz4", "xz", "zstd"),
        },
        feature="build",
        machines=MACHINES,
    ),
    Need(
        "microvm.package.compiler",
        NeedKind.PACKAGE,
        "the agent inside an image is compiled when the image is built",
        packages=toolchain.PACKAGES,
        feature="build",
        machines=MACHINES,
    ),
    Need(
        "microvm.image.debian",
        NeedKind.IMAGE,
        "kernel, initrd and root file system that the machines start from",
        data={"image": "microvm-debian", "path": IMAGE},
        feature="image",
        machines=MACHINES,
    ),
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
