"""SIGINT, SIGTERM and SIGHUP end what we run, then us with 128 + n."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked us to end. Like KeyboardInterrupt: nothing but the outermost caller may swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.exit_code = 128 + number


def raise_on_signals() -> None:
    """From now on the ending signals raise `Interrupted` in the main thread, the first of them only.

    A signal that was ignored when we started stays ignored (nohup(1); background jobs of a shell).
    """
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    # Cleaning up is bounded in time; a second signal must not cut it short.
    for other in _ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(number)
