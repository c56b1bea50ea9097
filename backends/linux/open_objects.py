"""Descriptors that stand for host objects, and what kind of object each is."""

from __future__ import annotations

import os
import stat

from backends.base import ObjectKind

__all__ = ["OpenObjects", "object_kind"]


class OpenObjects:
    """The `O_PATH | O_CLOEXEC` descriptors of the observed objects, by slot (a `base.Handles`)."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def add(self, descriptor: int) -> int:
        """Take over `descriptor`; returns its slot."""
        self._descriptors.append(descriptor)
        return len(self._descriptors) - 1

    def fileno(self, slot: int) -> int:
        return self._descriptors[slot]

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def object_kind(mode: int) -> ObjectKind:
    """The kind that `st_mode` says."""
    if stat.S_ISDIR(mode):
        return ObjectKind.DIRECTORY
    return ObjectKind.FILE if stat.S_ISREG(mode) else ObjectKind.OTHER
