"""What a host must have for Hyperlight, as data (host-prep.md §1).

The packages are wheels for x86_64: on Linux for glibc and Python ≥ 3.10, so neither for Alpine nor for the
python3 of RHEL 9. There is nothing to fall back on without a hypervisor.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.needs import Need, NeedKind, chosen

__all__ = ["ENVIRONMENT", "NEEDS", "REQUIREMENTS", "needs"]

ENVIRONMENT = "/usr/local/lib/mxc-ops/hyperlight"
REQUIREMENTS = (
    "hyperlight-sandbox==0.8.0",
    "hyperlight-sandbox-backend-wasm==0.8.0",
    "hyperlight-sandbox-python-guest==0.8.0",
)
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
        data={"environment": ENVIRONMENT, "requirements": list(REQUIREMENTS)},
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
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
