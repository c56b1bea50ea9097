"""What an image had that it has no more, for whoever took it in: how often, and where for example."""

from __future__ import annotations

from enum import Enum

from vm_images.oci.refusals import shown

__all__ = ["Defused", "Reason"]

_EXAMPLES = 3


class Reason(Enum):
    """What was taken out, or is otherwise than it may seem."""

    DEVICE = "device files left out"
    FIFO = "named pipes left out"
    SET_ID = "set-uid or set-gid bits cleared (--keep-set-id keeps them)"
    CAPABILITY = "capabilities of files left out"
    ATTRIBUTE = "extended attributes left out"
    REPEATED = "names that one layer has more than once, of which the last counts"


class Defused:
    """Counts per reason."""

    def __init__(self) -> None:
        self._found: dict[Reason, list[str]] = {}
        self._counts: dict[Reason, int] = {}

    def note(self, reason: Reason, layer: int, name: str) -> None:
        examples = self._found.setdefault(reason, [])
        self._counts[reason] = self._counts.get(reason, 0) + 1
        if len(examples) < _EXAMPLES:
            examples.append(f"{shown(name)} in layer {layer}")

    def notes(self) -> tuple[str, ...]:
        """One sentence a reason, in a fixed order."""
        return tuple(
            f"{self._counts[reason]} {reason.value}: {', '.join(self._found[reason])}"
            f"{', …' if self._counts[reason] > _EXAMPLES else ''}"
            for reason in Reason
            if reason in self._found
        )
