"""Events on their way to the parent; secrets never leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from mxc_ops.prep.messages import Event, Message

__all__ = ["Teller", "last_words"]

_LAST_LINES = 5
_LOG_CHARACTERS = 20_000
_FREE_TEXTS = ("after", "before", "fix", "message", "notice", "privilege", "seen", "text", "why")


class Teller:
    """Writes messages, one a line.

    Parameters
    ----------
    secrets: texts that are replaced wherever they turn up; empty ones are ignored.
    """

    def __init__(self, events: TextIO, secrets: Iterable[str]) -> None:
        self._events = events
        self._secrets = [secret for secret in secrets if secret]

    def tell(self, event: Event, host: str = "", **data: Any) -> None:
        told = self._without_secrets(data) if self._secrets else data
        self._events.write(Message(event, host, told).encode())

    def _without_secrets(self, told: Any, name: str = "") -> Any:
        """A host that echoes its input would otherwise have it recorded. Names of things stay as they are."""
        if isinstance(told, Mapping):
            return {key: self._without_secrets(value, key) for key, value in told.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] - JSON
        if isinstance(told, list):
            return [self._without_secrets(value, name) for value in told]  # pyright: ignore[reportUnknownVariableType] - JSON
        if isinstance(told, str) and name in _FREE_TEXTS:
            for secret in self._secrets:
                told = told.replace(secret, "***")
        return told  # pyright: ignore[reportUnknownVariableType] - JSON

    def log(self, host: str, lines: Sequence[str]) -> None:
        """What a command printed, for the host's log."""
        text = self._without_secrets("\n".join(lines), "text")  # before the cut, which might part one
        if text:
            self.tell(Event.LOG, host, text=text[-_LOG_CHARACTERS:])


def last_words(lines: Sequence[str]) -> str:
    """The end of a command's output, on one line; progress that a terminal would overwrite is left out."""
    shown = [line.rpartition("\r")[2].strip() for line in (line.rstrip("\r\n") for line in lines)]
    return " | ".join([line for line in shown if line][-_LAST_LINES:])
