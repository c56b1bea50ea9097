"""What a host must have for Windows Sandbox, as data (host-prep.md §1)."""

from __future__ import annotations

from collections.abc import Iterable

from backends.needs import Need, NeedKind, chosen
from backends.windows.executor import executor

__all__ = ["NEEDS", "needs"]

NEEDS: tuple[Need, ...] = (
    Need(
        "windows_sandbox.edition",
        NeedKind.WINDOWS_EDITION,
        "only these editions have Windows Sandbox",
        data={"build": "18362", "editions": ("Professional", "Enterprise", "Education")},
        system="windows",
    ),
    Need(
        "windows_sandbox.feature.containers",
        NeedKind.WINDOWS_FEATURE,
        "Windows Sandbox itself",
        data={"feature": "Containers-DisposableClientVM"},
        system="windows",
    ),
    Need(
        "windows_sandbox.hypervisor",
        NeedKind.HYPERVISOR,
        "Windows Sandbox is a virtual machine",
        data={"feature": "Containers-DisposableClientVM"},
        system="windows",
    ),
    executor("windows_sandbox"),
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
