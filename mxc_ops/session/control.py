"""What a supervisor answers on its ``control`` socket: one JSON line for another (blocking)."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from backends.errors import LaunchFailed, Problem
from backends.told_errors import told_error

__all__ = ["MOST_LINE", "SUPERVISOR_LOST", "Control", "answered", "connect", "encoded", "supervisor_lost"]

MOST_LINE = 8 << 20
SUPERVISOR_LOST = "supervisor_lost"
_ANSWER_S = 30.0


def connect(folder: str, name: str) -> socket.socket:
    """Connect to a socket of a sandbox's run folder, however long its path is. Raises `OSError`."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(f"/proc/self/fd/{descriptor}/{name}")
        except BaseException:
            sock.close()
            raise
        return sock
    finally:
        os.close(descriptor)


class Control:
    """A connection to one supervisor; a context manager."""

    def __init__(self, folder: str) -> None:
        """Raises `OSError` when nobody listens there."""
        self._sock = connect(folder, "control")
        self._sock.settimeout(_ANSWER_S)
        self._buffer = b""

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def ask(self, do: str, *, timeout_s: float | None = _ANSWER_S, **order: Any) -> Mapping[str, Any]:
        """The answer.

        `timeout_s` is for how long nothing may be heard: a supervisor that works on it says so now and then.

        Raises what the supervisor raised, `LaunchFailed` when it hangs up or is silent.
        """
        self._sock.settimeout(timeout_s)
        try:
            self._sock.sendall(encoded(do, order))
            answer: Mapping[str, Any] = {"working": True}
            while "working" in answer:
                answer = json.loads(self._line())
        except (OSError, ValueError) as error:
            raise supervisor_lost(error) from error
        return answered(answer)

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            piece = self._sock.recv(65536)
            if not piece or len(self._buffer) > MOST_LINE:
                raise ConnectionResetError("it hung up")
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def encoded(do: str, order: Mapping[str, Any]) -> bytes:
    """The line that asks for it."""
    return json.dumps({"do": do, **order}).encode() + b"\n"


def answered(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises what the supervisor raised."""
    if "error" in answer:
        raise told_error(answer["error"])
    if "failed" in answer:
        raise LaunchFailed(Problem("order_failed", "", str(answer["failed"])))
    return answer


def supervisor_lost(error: Exception) -> LaunchFailed:
    """What to raise when it hangs up, or is silent."""
    message = f"the sandbox's supervisor does not answer: {error}"
    return LaunchFailed(Problem(SUPERVISOR_LOST, "", message), retryable=True)
