"""The working state of an upgrade: the document's body on its way to the newest shape, and what got lost."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from mxc_ops.config.redaction import redacted

__all__ = ["Loss", "Severity", "Upgrade", "origin_of"]


class Severity(StrEnum):
    """LOSSY: meaning was lost, the result is stricter. DROPPED_DEFAULT: it said nothing that does not hold
    anyway. REFUSED: the target has no form for such a document."""

    LOSSY = "lossy"
    DROPPED_DEFAULT = "dropped default"
    REFUSED = "refused"


class Loss(NamedTuple):
    """One field without an equivalent: `pointer` as the user's document spells it, `value` safe to print."""

    pointer: str
    value: Any
    reason: str
    severity: Severity


class Upgrade:
    """`body` is changed in place by the steps. `losses` are kept by pointer; `origins` maps a pointer of the
    new shape to the place in the user's document that it came from, for what moved."""

    __slots__ = ("body", "losses", "origins")

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.losses: dict[str, Loss] = {}
        self.origins: dict[str, str] = {}

    def moved(self, new: str, old: str) -> None:
        self.origins[new] = old

    def origin(self, pointer: str) -> str:
        """Where the user's document has what now stands at `pointer`."""
        return origin_of(self.origins, pointer)

    def lose(self, pointer: str, value: Any, reason: str, severity: Severity = Severity.LOSSY) -> None:
        """Record a loss; `pointer` is of the current shape and is translated back."""
        place = self.origin(pointer)
        self.losses[place] = Loss(place, redacted(place, value), reason, severity)


def origin_of(origins: Mapping[str, str], pointer: str) -> str:
    """Translate `pointer` back: it, or the nearest place above it, may have moved."""
    place, tail = pointer, ""
    while place:
        if place in origins:
            return origins[place] + tail
        place, slash, last = place.rpartition("/")
        tail = f"{slash}{last}{tail}"
    return pointer
