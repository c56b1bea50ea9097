"""What a cell came to, in words that JSON holds. For `backends.inside.cells`.

It runs in the guest's own Python, 3.9 or later, with the standard library only. What it looks at is code's in
the cell, and may raise whatever it likes.
"""

from __future__ import annotations

import json
import sys
import traceback
import types
from typing import Any

__all__ = ["encoded", "exit_code", "shown", "told"]

_MOST_VALUE = 2 << 20
_MOST_REPR, _MOST_WORDS, _MOST_TRACE = 20_000, 4_000, 60_000
_OURS = "<backends.inside.cells"  # what our own files are called in tracebacks


def shown(value: Any) -> dict[str, Any]:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    found = {"repr": _cut(text, _MOST_REPR)}
    try:
        size = len(json.dumps(value, allow_nan=False))
    except Exception:  # not JSON, or what code in a cell has made of itself
        return found
    return {**found, "value": value} if size <= _MOST_VALUE else found


def encoded(done: dict[str, Any]) -> bytes:
    try:
        return json.dumps(done, allow_nan=False).encode()
    except Exception:  # the value is another one each time that it is looked at
        return json.dumps({**done, "value": None}).encode()


def exit_code(exit_: SystemExit) -> int:
    if exit_.code is None or isinstance(exit_.code, int):
        return (exit_.code or 0) & 0xFF
    try:
        print(exit_.code, file=sys.stderr)
    except Exception:
        return 1
    return 1


def told(error: BaseException) -> dict[str, str]:
    """What went wrong, also on standard error, without the frames of ours around it."""
    error.__traceback__ = trace = _without_ours(error.__traceback__)
    try:
        message = str(error)
    except Exception:
        message = "<its text raised an exception>"
    try:
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception:
        text = f"{type(error).__name__}: {message}\n"
    try:
        if sys.excepthook is sys.__excepthook__:
            sys.stderr.write(text)  # with the lines of the cell, which are in no file
        else:
            sys.excepthook(type(error), error, trace)
    except Exception:
        sys.__excepthook__(type(error), error, trace)
    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__")
    name = kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"
    return {"type": _cut(name, 200), "message": _cut(message, _MOST_WORDS), "traceback": _tail(text)}


def _without_ours(trace: types.TracebackType | None) -> types.TracebackType | None:
    if trace is None:
        return None
    rest = _without_ours(trace.tb_next) if trace.tb_next is not None else None
    if trace.tb_frame.f_code.co_filename.startswith(_OURS):
        return rest
    return types.TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def _tail(text: str) -> str:
    return text if len(text) <= _MOST_TRACE else f"…{text[-_MOST_TRACE:]}"
