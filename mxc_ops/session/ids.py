"""Ids and names of sandboxes, and what somebody may write for one (pure).

An id is ``<prefix>:<tail>``, the tail 32 random lowercase hexadecimal digits. Spec: lifecycle.md §2.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from backends.frozen import frozen
from mxc_ops.session.errors import malformed_id, name_malformed

__all__ = [
    "PREFIXES",
    "TAIL_DIGITS",
    "Written",
    "check_name",
    "is_id",
    "is_tail",
    "matching",
    "new_id",
    "parse",
]

PREFIXES = {
    "bubblewrap": "bwrap",
    "lxc": "lxc",
    "microvm": "vm",
    "vm": "vm",
    "hyperlight": "hl",
    "wslc": "wslc",
}
"""Containment → what its ids begin with."""
TAIL_DIGITS = 32
_HEX = frozenset("0123456789abcdef")
_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_IN_NAMES = _ALNUM | frozenset("._-")
_MAX_NAME = 63


@frozen
class Written:
    """What stands for a sandbox: `digits` are those an id may begin with, after `prefix` where that was
    written; `name` is a name that it may be. At least one of the two is there."""

    prefix: str
    digits: str
    name: str

    @property
    def whole(self) -> bool:
        """Whether it is an id (or its tail) that was not shortened: it can be nothing else."""
        return len(self.digits) == TAIL_DIGITS


def new_id(containment: str) -> str:
    """A fresh id for a sandbox of this containment, a key of `PREFIXES`."""
    return f"{PREFIXES[containment]}:{os.urandom(TAIL_DIGITS // 2).hex()}"


def is_tail(text: str) -> bool:
    return len(text) == TAIL_DIGITS and _HEX.issuperset(text)


def is_id(text: str) -> bool:
    """Whether it is a whole id of the form of ours."""
    prefix, _, tail = text.partition(":")
    return prefix in PREFIXES.values() and is_tail(tail)


def check_name(name: str) -> None:
    """Raises `ConfigError` when it cannot be the name of a sandbox. A tail cannot: ids come first."""
    if not _is_name(name):
        raise name_malformed(name)


def parse(text: str) -> Written:
    """Raises `LifecycleError` (``malformed_id``) when it can be neither an id, nor shortened, nor a name."""
    prefix, colon, digits = text.partition(":")
    if colon:
        if prefix not in PREFIXES.values():
            known = ", ".join(sorted({f"{prefix}:" for prefix in PREFIXES.values()}))
            raise malformed_id(text, f"begins with none of {known}")
        if not _is_shortened(digits):
            raise malformed_id(text, f"needs 1 to {TAIL_DIGITS} lowercase hexadecimal digits after the colon")
        return Written(prefix, digits, "")
    digits = text if _is_shortened(text) else ""
    name = text if _is_name(text) else ""
    if not digits and not name:
        raise malformed_id(text, "is no id and no name")
    return Written("", digits, name)


def matching(written: Written, tails: Iterable[str]) -> list[str]:
    """Those of the tails that the digits begin."""
    return [tail for tail in tails if written.digits and tail.startswith(written.digits)]


def _is_shortened(text: str) -> bool:
    return 0 < len(text) <= TAIL_DIGITS and _HEX.issuperset(text)


def _is_name(text: str) -> bool:
    return (
        0 < len(text) <= _MAX_NAME and text[0] in _ALNUM and _IN_NAMES.issuperset(text) and not is_tail(text)
    )
