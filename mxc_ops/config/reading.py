"""Small reads of a document in which anything optional may be absent or null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NOTHING: dict[str, Any] = {}


def section(body: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The object at ``names[0]/names[1]/…``; empty when any of them is absent or null."""
    found: Any = body
    for name in names:
        found = found.get(name)
        if found is None:
            return _NOTHING
    return found


def process_container(body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The process container's section and the name it goes by in this document."""
    name = "appContainer" if body.get("appContainer") is not None else "processContainer"
    return name, section(body, name)
