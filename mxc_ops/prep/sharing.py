"""Who relies on what a record is about. Pure.

What several backends need alike of a host is recorded for the one that came first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from importlib import import_module

from backends import registry
from backends.needs import BASE, Need, NeedKind
from mxc_ops.prep.items import OPERATIONS
from mxc_ops.prep.receipts import Receipt

__all__ = ["needed_by_others", "needed_for_undo"]

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
    """Items of other backends that rely on what a receipt records.

    Parameters
    ----------
    remaining: the receipts that stay; a backend without any is not taken for prepared, and neither is a
        feature.
    """
    own = _backend(receipt.item)
    prepared: dict[str, set[str]] = {}
    for other in remaining:
        prepared.setdefault(_backend(other.item), set()).add(other.item)
    return [
        need.identifier
        for backend, items in prepared.items()
        if backend != own
        for need in _prepared_needs(backend, items)
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


def _backend(item: str) -> str:
    return item.partition(".")[0]


def _prepared_needs(backend: str, items: set[str]) -> Iterator[Need]:
    needs = _needs(backend)
    # Of a need of each user, the items have the user's name behind its own.
    names = {*items, *(item.rpartition(".")[0] for item in items)}
    features = {BASE, *(need.feature for need in needs if need.identifier in names)}
    yield from (need for need in needs if need.feature in features)


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
