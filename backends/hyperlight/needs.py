"""What a host must have for Hyperlight, as data (host-prep.md §1).

On Linux, runs are machines of our own engine, so they take what microVMs take. The feature ``native`` is for
Hyperlight's own packages: wheels for x86_64, glibc and Python ≥ 3.10, so neither for Alpine nor for the
python3 of RHEL 9. They have nothing to fall back on without a hypervisor.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.microvm.needs import MACHINES, machine_needs
from backends.needs import Need, NeedKind, chosen

__all__ = ["ENVIRONMENT", "IMAGE", "NATIVE", "NEEDS", "REQUIREMENTS", "needs"]

IMAGE = "python"
"""The image of the runtime that older documents mean."""
NATIVE = "native"
"""The feature."""

ENVIRONMENT = "/usr/local/lib/mxc-ops/hyperlight"
_CHECKSUMS = {
    "hyperlight-sandbox==0.8.0": ("7aac916fa4dc1f630a72787d22082a1c1eed058ff866cb1d5ed53d2e9801f312",),
    "hyperlight-sandbox-backend-wasm==0.8.0": (
        "2dd25bb7f8619ceda1cc473da075a92d29431df8470eecaeb5e193d1ddda53d6",  # Python 3.10
        "412ebf5925e8caac3c367daa5bc5791c12a07260f1fb822d3d7e3806a74324ff",  # 3.11
        "5ef64125c744ee81efe33a19065b71ee5466dce001db4e7789cd7d570bfc3f93",  # 3.12
        "6428ba7aa50d2a667d8579e1642a99da345fd8c3d7ae86a3dfb5dabad910bcf0",  # 3.13
        "bb71af32d64850f95a469f70922edcc151d524698d19e29e05af7a13075f711d",  # 3.14
    ),
    "hyperlight-sandbox-python-guest==0.8.0": (
        "fb2f27a2123e6368659540c3d845baf4b44d5493cbdb30bafa88287dbda46bbc",
    ),
}
"""SHA-256 of each package's wheels for Linux on x86_64."""

REQUIREMENTS = tuple(_CHECKSUMS)
"""Everything that is needed: none of them needs another package."""

NEEDS: tuple[Need, ...] = (
    *machine_needs("hyperlight", IMAGE),
    Need(
        "hyperlight.package.python",
        NeedKind.PACKAGE,
        "the packages live in an environment that python3 -m venv makes",
        packages={
            "debian": ("python3", "python3-venv"),
            "fedora": ("python3",),
            "alpine": ("python3",),
            "arch": ("python",),
            "suse": ("python3",),
        },
        feature=NATIVE,
        machines=MACHINES,
    ),
    Need(
        "hyperlight.packages",
        NeedKind.PYTHON_PACKAGES,
        "Hyperlight's host library, its Wasm backend, and the Python that runs inside",
        data={"environment": ENVIRONMENT, "requirements": list(REQUIREMENTS), "checksums": _CHECKSUMS},
        feature=NATIVE,
        machines=MACHINES,
    ),
    Need(
        "hyperlight.device.mshv",
        NeedKind.DEVICE,
        "beside KVM the one hypervisor that Hyperlight knows, where Linux is a partition of Microsoft's",
        data={"path": "/dev/mshv", "group": "mshv"},
        feature=NATIVE,
        machines=MACHINES,
    ),
    Need(
        "hyperlight.feature.hypervisor-platform",
        NeedKind.WINDOWS_FEATURE,
        "the hypervisor that Hyperlight knows on Windows",
        data={"feature": "HypervisorPlatform"},
        system="windows",
        machines=MACHINES,
    ),
    Need(
        "hyperlight.hypervisor",
        NeedKind.HYPERVISOR,
        "the feature alone is nothing where no hypervisor can be started",
        data={"feature": "HypervisorPlatform"},
        system="windows",
        machines=MACHINES,
    ),
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
