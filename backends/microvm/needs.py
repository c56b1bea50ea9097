"""What a host must have to run virtual machines by QEMU, as data (host-prep.md §1, §9).

One engine serves the containments ``microvm`` and ``vm``, so both need the same, under their own names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from backends.bubblewrap.needs import needs as needs_of_bubblewrap
from backends.inside import toolchain
from backends.needs import Need, NeedKind, chosen
from backends.network.needs import network_needs

__all__ = ["IMAGE", "IMAGE_STORE", "MACHINES", "NEEDS", "image_needs", "machine_needs", "needs"]

MACHINES = ("x86_64",)  # QEMU has the machine type microvm for x86 only
IMAGE_STORE = "/var/lib/mxc-ops/images"
IMAGE = "python"
"""The image of the store that machines start from, unless another is named."""


def machine_needs(backend: str, image: str) -> tuple[Need, ...]:
    """What a backend needs whose runs are virtual machines of our own engine.

    Parameters
    ----------
    image: the one that its machines start from, unless another is named.
    """
    return (
        Need(
            f"{backend}.package.qemu",
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
            f"{backend}.device.kvm",
            NeedKind.DEVICE,
            "members of the group kvm may use the processor's virtualisation, where it works",
            data={"path": "/dev/kvm", "group": "kvm"},
            machines=MACHINES,
        ),
        *_confinement_needs(backend),
        *network_needs(backend, MACHINES),
        *image_needs(backend, image),
    )


def _confinement_needs(backend: str) -> tuple[Need, ...]:
    """QEMU is itself the workload of a bubblewrap sandbox, which has no network and maps no ids."""
    return tuple(
        replace(need, identifier=f"{backend}.confinement.{name}", machines=MACHINES)
        for need in needs_of_bubblewrap(("compiler",))
        for name in [need.identifier.partition(".")[2]]
    )


def image_needs(backend: str, image: str) -> tuple[Need, ...]:
    """The image that a backend starts from, unless another is named, and what builds one."""
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
            f"{backend}.package.image-compiler",
            NeedKind.PACKAGE,
            "the agent inside an image is compiled when the image is built",
            packages={"debian": toolchain.PACKAGES["debian"]},
            feature="build",
            machines=MACHINES,
        ),
        Need(
            f"{backend}.image.{image}",
            NeedKind.IMAGE,
            "what sandboxes start from, unless they name another image; nothing is downloaded when one is",
            data={"image": image, "path": IMAGE_STORE},
            feature="image",
            machines=MACHINES,
        ),
    )


NEEDS: tuple[Need, ...] = machine_needs("microvm", IMAGE)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
