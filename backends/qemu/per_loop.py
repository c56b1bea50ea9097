"""State that belongs to one event loop: nothing of it can be used from another, or after a fork (asyncio)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["PerLoop"]

_Kept = TypeVar("_Kept")


class PerLoop(Generic[_Kept]):
    """One value for each loop, made when it is first asked for."""

    def __init__(self, make: Callable[[], _Kept]) -> None:
        self._make = make
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, _Kept] = WeakKeyDictionary()
        os.register_at_fork(after_in_child=self._forget)

    def get(self) -> _Kept:
        """The running loop's; raises `RuntimeError` when none runs."""
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            self._by_loop[loop] = self._make()
        return self._by_loop[loop]

    def _forget(self) -> None:
        self._by_loop = WeakKeyDictionary()
