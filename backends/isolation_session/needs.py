"""What a host must have for isolation sessions, as data (host-prep.md §1, §7).

The rest is part of the Windows image itself and cannot be prepared.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.needs import Need, NeedKind, chosen
from backends.windows.executor import executor

__all__ = ["NEEDS", "needs"]

NEEDS: tuple[Need, ...] = (
    Need(
        "isolation_session.edition",
        NeedKind.WINDOWS_EDITION,
        "earlier builds do not have isolation sessions",
        data={"build": "26340.9212"},
        system="windows",
    ),
    executor("isolation_session"),
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
