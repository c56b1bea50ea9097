"""Our own mistakes: where one happened, on standard error, without what was being read at the time."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["report", "report_context"]

_MOST = 16


class _Told:
    """How many have been told of: whoever can cause one can cause many."""

    count = 0


def report(error: BaseException) -> None:
    """One line about `error`: its class and its place. After a few of them, nothing."""
    _Told.count += 1
    if _Told.count > _MOST:
        return
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = (
        ""
        if trace is None
        else f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
    )
    sys.stderr.write(f"filtering proxy: {type(error).__name__}{place}\n")
    sys.stderr.flush()


def report_context(_: object, context: dict[str, Any]) -> None:
    """An event loop's exception handler."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        report(error)
