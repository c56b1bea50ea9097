"""Events on their way to the parent; secrets never leave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from mxc_ops.prep.messages import Event, Message

__all__ = ["Teller", "last_words"]

_LAST_LINES = 5
_LOG_CHARACTERS = 20_000


class Teller:
    """Writes messages, one a line.

    Parameters
    ----------
    secrets: texts that are replaced wherever they turn up; empty ones are ignored.
    """

    def __init__(self, events: TextIO, secrets: Iterable[str]) -> None:
        self._events = events
        # As they stand in JSON. A host that echoes its input would otherwise have it recorded.
        self._secrets = [json.dumps(secret)[1:-1] for secret in secrets if secret]

    def tell(self, event: Event, host: str = "", **data: Any) -> None:
        line = Message(event, host, data).encode()
        for secret in self._secrets:
            line = line.replace(secret, "***")
        self._events.write(line)

    def log(self, host: str, lines: Sequence[str]) -> None:
        """What a command printed, for the host's log."""
        text = "\n".join(lines)
        if text:
            self.tell(Event.LOG, host, text=text[-_LOG_CHARACTERS:])


def last_words(lines: Sequence[str]) -> str:
    """The end of a command's output, on one line; progress that a terminal would overwrite is left out."""
    shown = [line.rpartition("\r")[2].strip() for line in (line.rstrip("\r\n") for line in lines)]
    return " | ".join([line for line in shown if line][-_LAST_LINES:])
