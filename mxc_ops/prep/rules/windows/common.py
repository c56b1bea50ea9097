"""What the rules for Windows share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mxc_ops.prep.decision import Decision
from mxc_ops.prep.windows.script import headed

__all__ = ["FORGET", "Seen", "number", "unreadable"]

Seen = Mapping[str, Any]

FORGET = headed("forget", "$null")
"""Does nothing: for a reversal that, when the user insists, only removes the record."""


def unreadable(seen: Seen, after: str) -> Decision | None:
    """The refusal, where a fact could not be read; else None."""
    if "unreadable" not in seen:
        return None
    return Decision(
        "unknown",
        after,
        refusal=f"it cannot be read: {seen['unreadable']}",
        fix="connect as an administrator (ssh_user in the inventory), then the same command again",
    )


def number(version: str) -> tuple[int, ...]:
    """A version for comparing: ``2.9.3`` → (2, 9, 3)."""
    return tuple(int(part) for part in version.split("."))
