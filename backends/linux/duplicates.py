"""Handles that outlive the ones they were made from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fcntl import F_DUPFD_CLOEXEC, fcntl

from backends.base import Handles

__all__ = ["Duplicates"]

_FIRST_FREE = 3


class Duplicates:
    """Copies of some of another `Handles`, by the same slots."""

    def __init__(self, handles: Handles, slots: Iterable[int]) -> None:
        """Raises `OSError` when there are no descriptors left; nothing is kept then."""
        self._fds: dict[int, int] = {}
        try:
            for slot in set(slots):
                self._fds[slot] = fcntl(handles.fileno(slot), F_DUPFD_CLOEXEC, _FIRST_FREE)
        except BaseException:
            self.close()
            raise

    def fileno(self, slot: int) -> int:
        return self._fds[slot]

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])
