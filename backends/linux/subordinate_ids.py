"""Whom /etc/subuid and /etc/subgid grant ids of their own (subuid(5))."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection

__all__ = ["caller_names", "holders", "ranges_of"]

_UIDS, _GIDS = "/etc/subuid", "/etc/subgid"


def caller_names() -> tuple[str, ...]:
    """What the caller may be called there: by name or number."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name, str(number)
    except KeyError:
        return (str(number),)


def ranges_of(names: Collection[str], count: int) -> tuple[int, int] | None:
    """Where somebody's first uids and gids begin that are so many; None when either are too few."""
    uid, gid = (
        next((first for name, first in _entries(path, count) if name in names), None)
        for path in (_UIDS, _GIDS)
    )
    return None if uid is None or gid is None else (uid, gid)


def holders(count: int) -> tuple[str, ...]:
    """Everybody who has so many uids and so many gids, as the files call them."""
    with_gids = {name for name, _ in _entries(_GIDS, count)}
    return tuple(dict.fromkeys(name for name, _ in _entries(_UIDS, count) if name in with_gids))


def _entries(path: str, count: int) -> list[tuple[str, int]]:
    try:
        with open(path, encoding="utf-8") as file:
            entries = [line.strip().split(":") for line in file]
    except OSError:
        return []
    return [
        (fields[0], int(fields[1]))
        for fields in entries
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit() and int(fields[2]) >= count
    ]
