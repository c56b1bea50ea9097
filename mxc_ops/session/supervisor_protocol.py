"""What a supervisor is started with. Pure."""

from __future__ import annotations

import json

from backends.frozen import frozen

__all__ = ["Assignment"]


@frozen
class Assignment:
    """`document` is a config; `folder` where its sockets are to be.

    `alive` is the locked descriptor that tells that the supervisor lives, `report` where the starter waits
    for one JSON line: ``{"running": pid}`` or ``{"error": …}``.
    """

    document: str
    folder: str
    alive: int
    report: int

    def encode(self) -> bytes:
        fields = ("document", "folder", "alive", "report")
        return json.dumps({name: getattr(self, name) for name in fields}).encode()

    @classmethod
    def decode(cls, text: bytes) -> Assignment:
        return cls(**json.loads(text))
