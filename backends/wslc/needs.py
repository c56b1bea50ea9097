"""What a host must have for WSL containers, as data (host-prep.md §1, §4, §5).

Windows runs them itself; elsewhere it is our own machines that do, from images that we make.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.needs import Need, NeedKind, chosen
from backends.windows.executor import executor

__all__ = ["NEEDS", "needs"]

NEEDS: tuple[Need, ...] = (
    Need(
        "wslc.edition",
        NeedKind.WINDOWS_EDITION,
        "WSL containers exist for Windows 11 on x64",
        data={"build": "22000", "machines": ("x86_64",)},
        system="windows",
    ),
    Need(
        "wslc.feature.linux",
        NeedKind.WINDOWS_FEATURE,
        "the subsystem for Linux that containers run in",
        data={"feature": "Microsoft-Windows-Subsystem-Linux"},
        system="windows",
    ),
    Need(
        "wslc.feature.virtual-machines",
        NeedKind.WINDOWS_FEATURE,
        "the subsystem is a virtual machine",
        data={"feature": "VirtualMachinePlatform"},
        system="windows",
    ),
    Need(
        "wslc.hypervisor",
        NeedKind.HYPERVISOR,
        "the virtual machine runs on it",
        data={"feature": "VirtualMachinePlatform"},
        system="windows",
    ),
    Need(
        "wslc.wsl",
        NeedKind.WSL_VERSION,
        "containers came to WSL with this version, for now in its pre-releases",
        data={"version": "2.9.3"},
        system="windows",
    ),
    executor("wslc"),
    Need(
        "wslc.package.image-tools",
        NeedKind.PACKAGE,
        "skopeo fetches and converts images of containers, umoci unpacks them, mkfs.erofs packs them",
        packages={
            "debian": ("skopeo", "umoci", "erofs-utils", "zstd", "xz-utils", "bubblewrap", "uidmap"),
        },
        feature="build",
        machines=("x86_64",),
    ),
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
