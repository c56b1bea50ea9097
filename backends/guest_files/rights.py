"""Files are copied back with the rights of the grant's owner, whoever we are.

What comes from a guest is believed in nothing: a guest that says it changed what its workload had no right to
change is stopped by the kernel, as the workload itself would have been in another sandbox.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from backends.linux.delegation import Caller, lower_thread

__all__ = ["as_owner"]

T = TypeVar("T")


def as_owner(owner: tuple[int, int], work: Callable[[], T]) -> T:
    """Run `work` with the owner's file-system rights, and no capabilities, when we are root; else as we are.

    As root, `work` runs on another thread, and an interruption is raised only once that has ended: it uses
    descriptors of the caller. Raises whatever `work` raises, and `PolicyRefused` when the rights cannot be
    taken on.
    """
    if os.geteuid() != 0:
        return work()
    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            lower_thread(Caller(*owner, (owner[1],)))
            results.append(work())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=body, name="owner-rights")
    thread.start()
    interruption: KeyboardInterrupt | None = None
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt as raised:
            interruption = raised
    for failure in (*failures, *([interruption] if interruption else [])):
        raise failure
    return results[0]
