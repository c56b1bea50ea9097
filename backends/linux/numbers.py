"""Numbers of which each is one sandbox's alone, whoever on this host starts it.

A flock on a file per number marks it as taken for as long as anybody, here or in a sandbox, holds the
descriptor.
"""

from __future__ import annotations

import fcntl
import os

from backends.frozen import frozen

__all__ = ["RUN_DIRECTORY", "Taken", "take"]

RUN_DIRECTORY = "/run/mxc-ops"


@frozen
class Taken:
    """A number that is ours while `lock` is open in some process."""

    number: int
    lock: int


_next_offset = os.getpid()


def take(kind: str, first: int, count: int) -> Taken | None:
    """One of `count` numbers from `first` on that nobody has; None when all are taken.

    Parameters
    ----------
    kind: what the numbers are of; their files lie below a folder of that name.
    """
    global _next_offset  # noqa: PLW0603 - only a hint where to look first
    folder = f"{RUN_DIRECTORY}/{kind}"
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for _ in range(count):
        _next_offset += 1
        number = first + _next_offset % count
        lock = os.open(f"{folder}/{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return Taken(number, lock)
    return None
