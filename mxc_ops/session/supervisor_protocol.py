"""What a supervisor is started with. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backends.frozen import frozen

__all__ = ["SUSPENDED", "Assignment"]

SUSPENDED = "suspended"
"""A file in the folder of sockets while everything in the sandbox stands still."""


@frozen
class Assignment:
    """`document` is a config; `folder` where its sockets are to be.

    `alive` is the locked descriptor that tells that the supervisor lives, `report` where the starter waits
    for one JSON line: ``{"running": pid}`` or ``{"error": …}``. A copy of another sandbox has the numbers of
    `copied_fds`, by name, and what was `copied_said` (see `backends.sessions.Copied`).
    """

    document: str
    folder: str
    alive: int
    report: int
    copied_fds: Mapping[str, int] | None = None
    copied_said: Mapping[str, Any] | None = None

    def encode(self) -> bytes:
        fields = ("document", "folder", "alive", "report", "copied_fds", "copied_said")
        return json.dumps({name: getattr(self, name) for name in fields}).encode()

    @classmethod
    def decode(cls, text: bytes) -> Assignment:
        return cls(**json.loads(text))
