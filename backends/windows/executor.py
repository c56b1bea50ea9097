"""MXC's own executor, which starts what our plans for Windows say."""

from __future__ import annotations

from backends.needs import Need, NeedKind

__all__ = ["executor"]

_INTEGRITY = "sha512-2cP925G5+lQyKzjBVha8uNtVd7XESgDBtgi1yCYYSo9M3xiFyZWtCO4SWPGTk509rdI6nqjyGcZxvEP3t6l8Hg=="


def executor(backend: str) -> Need:
    """The need of it, for one backend. Version and sum belong together (spec: cli-sdk.md §3)."""
    return Need(
        f"{backend}.executor",
        NeedKind.EXECUTOR,
        "MXC's own executor carries plans out on Windows",
        data={
            "path": r"%ProgramFiles%\mxc-executor",
            "package": "@microsoft/mxc-sdk@1.0.1",
            "integrity": _INTEGRITY,
        },
        system="windows",
    )
