"""What a host must have for Hyperlight, as data (host-prep.md §1).

The packages are wheels for x86_64: on Linux for glibc and Python ≥ 3.10, so neither for Alpine nor for the
python3 of RHEL 9. There is nothing to fall back on without a hypervisor.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.needs import Need, NeedKind, chosen

__all__ = ["ENVIRONMENT", "NEEDS", "REQUIREMENTS", "needs"]

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

MACHINES = ("x86_64",)  # Hyperlight itself is for no other

NEEDS: tuple[Need, ...] = (
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
        machines=MACHINES,
    ),
    Need(
        "hyperlight.packages",
        NeedKind.PYTHON_PACKAGES,
        "Hyperlight's host library, its Wasm backend, and the Python that runs inside",
        data={"environment": ENVIRONMENT, "requirements": list(REQUIREMENTS), "checksums": _CHECKSUMS},
        machines=MACHINES,
    ),
    Need(
        "hyperlight.device.kvm",
        NeedKind.DEVICE,
        "one of two hypervisors that Hyperlight knows on Linux",
        data={"path": "/dev/kvm", "group": "kvm"},
        machines=MACHINES,
    ),
    Need(
        "hyperlight.device.mshv",
        NeedKind.DEVICE,
        "the other one, where Linux is a partition of Microsoft's hypervisor",
        data={"path": "/dev/mshv", "group": "mshv"},
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
