"""What is told of a sandbox wherever one is told of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mxc_ops.session.entry import Entry

__all__ = ["described"]


def described(entry: Entry) -> dict[str, Any]:
    """JSON-safe."""
    record = entry.record
    return {
        "id": record.id,
        "name": record.name,
        "containment": record.containment,
        "state": entry.state,
        "created": record.created,
        "lastUsed": entry.last_used,
    }
