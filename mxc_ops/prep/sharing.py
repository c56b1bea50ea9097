"""Who relies on what a record is about. Pure.

What several backends need alike of a host is recorded for the one that came first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any

from backends import registry
from backends.needs import BASE, EACH_USER, Need, NeedKind
from mxc_ops.prep.items import OPERATIONS, Item
from mxc_ops.prep.receipts import Receipt

__all__ = ["needed_by_others", "needed_for_undo", "recorded_as"]

# By which of its arguments an operation of one kind is the same as another.
_SUBJECTS = (
    "key",
    "module",
    "image",
    "path",
    "user",
    "service",
    "bridge",
    "network",
    "pool",
    "environment",
    "feature",
    "program",
)
# An operation that comes to the same as that of the kind, by another way.
_SAME = {"helpers.pushed": "helpers.built", "images.stored": "images.installed"}


def needed_by_others(receipt: Receipt, remaining: Iterable[Receipt]) -> list[str]:
    """Items of other backends, or of other features of the same, that rely on what a receipt records.

    Parameters
    ----------
    remaining: the receipts that stay; a backend without any is not taken for prepared, and neither is a
        feature.
    """
    prepared: dict[str, set[str]] = {}
    for other in remaining:
        prepared.setdefault(_backend(other.item), set()).add(other.item)
    return [
        need.identifier
        for backend, items in prepared.items()
        for need in _prepared_needs(backend, items)
        if need.identifier != receipt.item
        # Of packages, two records can be about some each.
        if (need.identifier not in items or need.kind is NeedKind.PACKAGE) and _is_the_same(need, receipt)
    ]


def needed_for_undo(item: str, remaining: Collection[str]) -> list[str]:
    """Items of the same backend that could not be taken back any more without this one.

    Parameters
    ----------
    remaining: the items that stay recorded.
    """
    return [
        need.identifier
        for need in _needs(_backend(item))
        if item in need.undone_with and need.identifier in remaining
    ]


def recorded_as(item: Item, receipts: Mapping[str, Receipt]) -> str:
    """The item that a further change of what this one is about is recorded for: its own where there is none.

    Parameters
    ----------
    receipts: by item.
    """
    subject = _subject(item.operation, item.arguments)
    if item.identifier in receipts or subject is None:
        return item.identifier
    same = (name for name, one in receipts.items() if _subject(one.operation, one.arguments) == subject)
    return next(same, item.identifier)


def _subject(operation: str, arguments: Mapping[str, Any]) -> tuple[str, str, Any] | None:
    name = next((name for name in _SUBJECTS if name in arguments), None)
    return None if name is None else (_SAME.get(operation, operation), name, arguments[name])


def _backend(item: str) -> str:
    return item.partition(".")[0]


def _prepared_needs(backend: str, items: set[str]) -> Iterator[Need]:
    needs = _needs(backend)
    features = {BASE, *(need.feature for need in needs if any(_is_of(item, need) for item in items))}
    yield from (need for need in needs if need.feature in features)


def _is_of(item: str, need: Need) -> bool:
    """Of a need of each user, the items have the user's name behind its own."""
    return item == need.identifier or (
        need.data.get("user") == EACH_USER and item.rpartition(".")[0] == need.identifier
    )


def _needs(backend: str) -> tuple[Need, ...]:
    entry = registry.CONTAINMENTS.get(backend)
    return () if entry is None or entry.needs is None else import_module(entry.needs).NEEDS


def _is_the_same(need: Need, receipt: Receipt) -> bool:
    if OPERATIONS[need.kind] != _SAME.get(receipt.operation, receipt.operation):
        return False
    arguments = receipt.arguments
    if need.kind is NeedKind.PACKAGE:
        ours = {*receipt.made.get("asked", ()), *receipt.made.get("added", ())}
        # rpm's names end with the architecture.
        ours |= {name.rpartition(".")[0] for name in ours}
        return not ours.isdisjoint(need.packages.get(arguments["family"], ()))
    subject = next((name for name in _SUBJECTS if name in need.data), "")
    return bool(subject) and need.data[subject] == arguments.get(subject)
