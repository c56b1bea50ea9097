"""What happened to a sandbox: one JSON line per transition, on the disk before the record says so.

A line that was torn by a crash counts as not written. A full journal becomes the old one, and replaces that.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from mxc_ops.session.files import append_line, read_file

__all__ = ["note", "read_journal"]

_CURRENT, _OLD = "journal", "journal.old"
_FULL_BYTES = 64 << 10
_MOST_BYTES = 1 << 20


def note(folder: int, entry: dict[str, Any]) -> None:
    """Add a line; only who holds the sandbox's lock does that. Raises `Foreign` and `OSError`."""
    line = json.dumps(entry, separators=(",", ":")).encode()
    with suppress(FileNotFoundError):
        if os.stat(_CURRENT, dir_fd=folder, follow_symlinks=False).st_size > _FULL_BYTES:
            os.rename(_CURRENT, _OLD, src_dir_fd=folder, dst_dir_fd=folder)
    append_line(_CURRENT, folder, line)


def read_journal(folder: int) -> list[dict[str, Any]]:
    """All that is still noted, oldest first. Raises `Foreign` and `OSError`."""
    entries: list[dict[str, Any]] = []
    for name in (_OLD, _CURRENT):
        with suppress(FileNotFoundError):
            for line in read_file(name, folder, _MOST_BYTES).split(b"\n"):
                with suppress(ValueError, RecursionError):
                    entries.append(json.loads(line))
    return [entry for entry in entries if type(entry) is dict]
