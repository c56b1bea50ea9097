"""What the ranged line reads although the declared version's published schema did not have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from mxc_ops.config import extension
from mxc_ops.config.models import editions
from mxc_ops.config.models.kinds import Kind, Shape, Shapes, Sort


@dataclass(frozen=True)
class Novelty:
    """One field that a version did not have, as far as it is new.

    Parameters
    ----------
    whole: the field itself is new.
    values: only these values are.
    inner: only these fields of the object, or of the objects in the array, that it holds are.
    """

    whole: bool = False
    values: frozenset[Any] = frozenset()
    inner: Mapping[str, Novelty] | None = None


Found = tuple[tuple[str | int, ...], str | None]
"""The path of something new; the value, when only the value is."""


@cache
def novelties(published: str, minor: int) -> Mapping[str, Novelty]:
    """What ``editions.ranged(minor)`` knows of the root and below that the `published` version did not."""
    return _compare(editions.ranged(minor).shapes, editions.PUBLISHED[published], "Request")


def found(body: Mapping[str, Any], news: Mapping[str, Novelty]) -> Iterator[Found]:
    """What in `body` is new. The body must be well-shaped; null counts as absent."""
    for name, novelty in news.items():
        value = body.get(name)
        if value is None:
            continue
        if novelty.whole:
            yield (name,), None
        elif novelty.values and value in novelty.values:
            yield (name,), value
        elif novelty.inner:
            for path, new in _found_inside(value, novelty.inner):
                yield (name, *path), new


def _found_inside(value: Any, news: Mapping[str, Novelty]) -> Iterator[Found]:
    if isinstance(value, dict):
        yield from found(cast("dict[str, Any]", value), news)
    elif isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            for path, new in _found_inside(item, news):
                yield (index, *path), new


def _compare(now: Shapes, then: Shapes, name: str) -> dict[str, Novelty]:
    old: Shape = then.get(name, {})
    news: dict[str, Novelty] = {}
    for field_name, kind in now[name].items():
        if field_name == extension.KEY:
            continue
        novelty = _novelty(now, then, kind, old.get(field_name))
        if novelty is not None:
            news[field_name] = novelty
    return news


def _novelty(now: Shapes, then: Shapes, kind: Kind, old: Kind | None) -> Novelty | None:
    if old is None:
        return Novelty(whole=True)
    if kind.sort is Sort.CHOICE and old.sort is Sort.CHOICE:
        values = frozenset(kind.choices) - frozenset(old.choices)
        return Novelty(values=values) if values else None
    inner: dict[str, Novelty] = {}
    for name in editions.sections_of(kind):
        inner |= _compare(now, then, name)
    return Novelty(inner=inner) if inner else None
