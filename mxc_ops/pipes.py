"""Pipes between us and a workload, and what becomes of our ends in a fork of this process."""

from __future__ import annotations

import os
from _thread import allocate_lock

_lock = allocate_lock()
_input_ends: set[int] = set()


def open_input_pipe() -> tuple[int, int]:
    """A pipe for standard input: (the workload's end, ours, to be closed by `close_end` only).

    The input ends when the last copy of our end is closed. A child that this process forks meanwhile would
    keep a copy for all its life, so there the number is made to stand for nothing.
    """
    with _lock:
        theirs, ours = os.pipe()
        _input_ends.add(ours)
        return theirs, ours


def close_end(fd: int) -> None:
    """Close one of our ends."""
    with _lock:
        _input_ends.discard(fd)
        os.close(fd)


def _hold() -> None:
    _lock.acquire()


def _release() -> None:
    _lock.release()


def _let_go_in_child() -> None:
    global _lock  # noqa: PLW0603 - the one we inherited is held by a thread that the child does not have
    if _input_ends:
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in _input_ends:
            os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)
    _input_ends.clear()
    _lock = allocate_lock()


# The lock is held while we fork: so no end exists that the child does not know of.
os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_let_go_in_child)
