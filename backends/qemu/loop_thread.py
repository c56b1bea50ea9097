"""The one thread of this process on which machines are driven, and what is kept from run to run there.

After a fork the child has no such thread, and nothing of what was kept: both begin anew.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["submit"]

_Answer = TypeVar("_Answer")
_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def submit(work: Coroutine[Any, Any, _Answer]) -> Future[_Answer]:
    """Run a coroutine there; any thread may wait for the answer. Cancelling the future cancels the work."""
    return asyncio.run_coroutine_threadsafe(work, _running_loop())


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop  # noqa: PLW0603 - one per process
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            # A daemon: machines end with this process, whatever their loop still has to do.
            threading.Thread(target=_loop.run_forever, name="mxc-ops machines", daemon=True).start()
        return _loop


def _forget_loop() -> None:
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_loop)
