"""Copies of a sandbox that runs: taken by its supervisor, received by who starts them (blocking)."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from backends.errors import LaunchFailed, Problem
from backends.frozen import frozen
from backends.sessions import Copied, Scope
from backends.told_errors import told_error
from mxc_ops.session.control import connect
from mxc_ops.session.entry import Entry
from mxc_ops.session.reaching import why_unreachable

__all__ = ["Forked", "taken_copy"]

_COPY_S = 60.0
_MOST_FDS = 8
_MOST_LINE = 1 << 20


@frozen
class Forked:
    """Copies of a sandbox, and what each of them has of its original."""

    entries: tuple[Entry, ...]
    scope: Scope


@contextmanager
def taken_copy(entry: Entry) -> Generator[Copied]:
    """What copies of the sandbox start from, its descriptors open while this is entered.

    Raises `LifecycleError` (``not_started``), `LaunchFailed`.
    """
    entry.touch()
    try:
        sock = connect(entry.record.run_folder, "copy")
    except OSError as error:
        raise why_unreachable(entry) from error
    with sock:
        sock.settimeout(_COPY_S)
        fds: list[int] = []
        try:
            told = _received(sock, fds)
            if "error" in told:
                raise told_error(told["error"])
            yield Copied(dict(zip(told["fds"], fds, strict=True)), told["said"])
        finally:
            for descriptor in fds:
                os.close(descriptor)


def _received(sock: socket.socket, fds: list[int]) -> dict[str, Any]:
    heard = b""
    try:
        while not heard.endswith(b"\n") and len(heard) < _MOST_LINE:
            piece, given, _, _ = socket.recv_fds(sock, 65536, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
            fds += given
            if not piece:
                break
            heard += piece
        return json.loads(heard)
    except (OSError, ValueError) as error:
        message = f"the sandbox's supervisor gave no copy: {error}"
        raise LaunchFailed(Problem("supervisor_lost", "", message), retryable=True) from error
