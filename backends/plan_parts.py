"""How parts that every plan has are written down (pure)."""

from __future__ import annotations

from collections.abc import Iterable

from backends.base import Timeout
from backends.ended import LimitOutcome

__all__ = ["limits_as_list", "timeout_as_dict"]


def limits_as_list(limits: Iterable[LimitOutcome]) -> list[dict[str, object]]:
    return [
        {"name": limit.name, "value": limit.value, "mechanism": limit.mechanism, "scope": limit.scope}
        for limit in limits
    ]


def timeout_as_dict(timeout: Timeout) -> dict[str, object]:
    return {"afterMs": timeout.after_ms, "graceMs": timeout.grace_ms, "signal": timeout.signal}
