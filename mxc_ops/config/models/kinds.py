"""The vocabulary in which document versions are written down: pure data with three readers.

`compiled` makes validators of it, `mxc_ops.config.schema_export` JSON Schemas, `novelties` the list of what a
version did not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any


class Sort(Enum):
    TEXT = "a string"
    FLAG = "true or false"
    INTEGER = "an integer"
    NUMBER = "a number"
    CHOICE = "one of a few values"
    LIST = "an array"
    SECTION = "an object"
    NAMED = "an object with names of the user's choosing"
    EITHER = "one of several kinds"
    ANYTHING = "anything"


@dataclass(frozen=True)
class Kind:
    """What one field may hold.

    Parameters
    ----------
    choices: of a CHOICE.
    minimum, maximum: of an INTEGER or a NUMBER, inclusive.
    min_length: of a TEXT, in characters, or a LIST, in items.
    item: what a LIST or NAMED holds.
    section: the name of the shape that a SECTION has.
    members: of an EITHER; `expected` says them in words.
    required: the field must be there.
    """

    sort: Sort
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    min_length: int = 0
    item: Kind | None = None
    section: str = ""
    members: tuple[Kind, ...] = ()
    expected: str = ""
    required: bool = False


Shape = Mapping[str, Kind]
"""The fields of one object, by name. Objects are always closed."""

Shapes = Mapping[str, Shape]
"""All objects of a version, by a name of ours."""

TEXT = Kind(Sort.TEXT)
FLAG = Kind(Sort.FLAG)
ANYTHING = Kind(Sort.ANYTHING)
TRUE = Kind(Sort.CHOICE, choices=(True,))


def text(min_length: int) -> Kind:
    return Kind(Sort.TEXT, min_length=min_length)


def integer(minimum: int, maximum: int | None = None) -> Kind:
    return Kind(Sort.INTEGER, minimum=minimum, maximum=maximum)


def number(minimum: float, maximum: float) -> Kind:
    return Kind(Sort.NUMBER, minimum=minimum, maximum=maximum)


def choice(*choices: Any) -> Kind:
    return Kind(Sort.CHOICE, choices=choices)


def list_of(item: Kind, min_length: int = 0) -> Kind:
    return Kind(Sort.LIST, item=item, min_length=min_length)


def named(item: Kind) -> Kind:
    return Kind(Sort.NAMED, item=item)


def section(name: str) -> Kind:
    return Kind(Sort.SECTION, section=name)


def either(expected: str, *members: Kind) -> Kind:
    return Kind(Sort.EITHER, members=members, expected=expected)


def required(kind: Kind) -> Kind:
    return replace(kind, required=True)


def optional(kind: Kind) -> Kind:
    return replace(kind, required=False)


U32 = integer(0, 2**32 - 1)
U64 = integer(0, 2**64 - 1)
PORT = integer(1, 65535)
TEXTS = list_of(TEXT)


def changed(before: Shapes, **changes: Mapping[str, Kind | None]) -> dict[str, Shape]:
    """The shapes of the next version: per shape what is new or differs, None for what is gone."""
    after = dict(before)
    for name, fields in changes.items():
        merged = {**before.get(name, {}), **fields}
        after[name] = {field: kind for field, kind in merged.items() if kind is not None}
    return after
