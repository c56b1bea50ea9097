"""The log of `mxc-exec`: buffered, printed as it is written with --debug, appended to --log-file.

Spec: cli-sdk.md §1.1, §1.2. Upstream discards the buffer when all went well, and prints it when it refuses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

from mxc_ops.cli.streams import tell
from mxc_ops.cli.text import printable


class ExecLog:
    """Parameters
    ----------
    debug: print each line to stdout at once; nothing is buffered then.
    path: append each line to this file, with the time in whole seconds. Not being able to is only a warning.
    """

    def __init__(self, *, debug: bool, path: str | None) -> None:
        self._debug = debug
        self._file = _open(path) if path is not None else None
        self._buffer: list[str] = []

    def line(self, text: str) -> None:
        text = printable(text)
        self._append(text)
        if self._debug:
            print(text, flush=True)
        else:
            self._buffer.append(text)

    def event(self, content: dict[str, str]) -> None:
        """A structured line, for the log file only."""
        if self._file is not None:
            import json

            self._append(json.dumps(content, separators=(",", ":")))

    def show(self, say: Callable[[str], object]) -> None:
        """Print what was buffered, line by line with `say`."""
        for text in self._buffer:
            say(text)
        self._buffer.clear()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, text: str) -> None:
        if self._file is None:
            return
        with suppress(OSError):  # a full disk must not end the run
            os.write(self._file, f"[{int(time.time())}] {text}\n".encode(errors="backslashreplace"))


def _open(path: str) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as error:
        reason = f"{error.strerror} (os error {error.errno})"
    except ValueError as error:
        reason = str(error)
    tell(f"Warning: could not open log file '{printable(path)}': {reason}")
    return None
