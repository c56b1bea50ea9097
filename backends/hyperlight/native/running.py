"""A run by the packages that was started: its worker's end, and what that means for the program."""

from __future__ import annotations

import json
import os
import signal
from _thread import allocate_lock
from contextlib import suppress
from typing import Any

from backends.ended import Ended, Outcome
from backends.errors import LaunchFailed, MxcError, Problem
from backends.frozen import replace
from backends.hyperlight.native.refusals import FIX
from backends.hyperlight.native.words import without_repeats
from backends.launched.running import LaunchedRunning

__all__ = ["NativeRunning"]

_MOST_BYTES = 64 * 1024
_BY_A_LIMIT = (signal.SIGKILL, signal.SIGXCPU)


class NativeRunning:
    """See `backends.base.Running`.

    A machine that stops by itself, as at a stack that is full, has ended by SIGABRT: it cannot go on, and
    there is no exit code. What kept it from being made is an error, for nothing of the program ran.
    """

    def __init__(self, worker: LaunchedRunning, report: int, words: int) -> None:
        """`report` and `words` are the files that the worker writes to; they belong to this object."""
        self._worker = worker
        self._fds = [report, words]
        self._lock = allocate_lock()
        self._asked = False
        self._ended: Ended | None = None
        self._failure: MxcError | None = None

    @property
    def pid(self) -> int:
        return self._worker.pid

    @property
    def pidfd(self) -> int:
        return self._worker.pidfd

    @property
    def wrapping_up(self) -> bool:
        return False

    def signal(self, signal_number: int) -> None:
        self._asked = True
        self._worker.signal(signal_number)

    def expire(self, signal_number: int) -> None:
        self._asked = True
        self._worker.expire(signal_number)

    def kill(self) -> None:
        self._asked = True
        self._worker.kill()

    def wait(self, timeout_s: float | None = None) -> Ended | None:
        """See `backends.base.Running.wait`. Raises `LaunchFailed` where the program was not begun."""
        ended = self._worker.wait(timeout_s)
        if ended is None:
            return None
        with self._lock:
            if self._ended is None and self._failure is None:
                self._conclude(ended)
            if self._failure is not None:
                raise self._failure
            return self._ended

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _conclude(self, ended: Ended) -> None:
        report, words = (_read(fd) for fd in self._fds)
        self._close()
        became = _decoded(report)
        if ended.outcome is Outcome.EXITED and "ended" in became:
            self._ended = ended
        elif ended.outcome is Outcome.EXITED:
            said = became.get("failed") or words or f"their process ended with {ended.exit_code}"
            self._stopped(ended, str(said), begun="begun" in became)
        elif self._asked or ended.signal in _BY_A_LIMIT or "begun" in became:
            warnings = () if self._asked or not words else (f"the machine's process said: {_words(words)}",)
            self._ended = replace(ended, warnings=(*ended.warnings, *warnings))
        else:
            said = f": {words}" if words else ""
            self._failure = _not_made(f"their process ended by {_name(ended.signal)}{said}")

    def _stopped(self, ended: Ended, said: str, *, begun: bool) -> None:
        if not begun:
            self._failure = _not_made(said)
            return
        self._ended = replace(
            ended,
            outcome=Outcome.SIGNALLED,
            exit_code=128 + signal.SIGABRT,
            signal=int(signal.SIGABRT),
            warnings=(*ended.warnings, f"the machine stopped: {_words(said)}"),
        )


def _name(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"


def _read(fd: int) -> str:
    return os.pread(fd, _MOST_BYTES, 0).decode("utf-8", "replace").strip()


def _decoded(report: str) -> dict[str, Any]:
    """What its lines say together; who gets out of the machine writes them, so one may say nothing."""
    became: dict[str, Any] = {}
    for line in report.splitlines():
        with suppress(ValueError):
            found: Any = json.loads(line)
            if isinstance(found, dict):
                became |= found
    return became


def _words(said: str) -> str:
    """What can be printed of it, each cause once."""
    return without_repeats("".join(letter if letter.isprintable() else " " for letter in said))


def _not_made(why: str) -> LaunchFailed:
    message = f"Hyperlight's packages could not make the machine: {_words(why)}"
    fix = f"{FIX}, or: mxc-ops doctor --backend hyperlight"
    return LaunchFailed(Problem("native_not_started", "", message, fix=fix))
