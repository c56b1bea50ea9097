"""Undo and verify: from receipts to an order and to verdicts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from enum import Enum
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from typing import Any

from backends import registry
from backends.needs import BASE, Need
from mxc_ops.prep.choices import COMPILER
from mxc_ops.prep.decision import Decision, Query
from mxc_ops.prep.receipts import COMPLETE, PENDING, Receipt, readings
from mxc_ops.prep.rules import rule

__all__ = [
    "Verdict",
    "as_it_stands",
    "is_named",
    "judge",
    "preparing",
    "reversal",
    "reverse_queries",
    "trouble",
    "undo_order",
    "unmeasured",
]

_PACKAGES = "packages.installed"


class Verdict(Enum):
    """What `verify` says about one recorded change."""

    AS_RECORDED = "as recorded"
    DRIFTED = "drifted"
    MISSING = "missing"
    UNFINISHED = "unfinished"
    UNKNOWN = "unknown"
    NEEDS_PRIVILEGE = "needs privilege"


def reverse_queries(receipt: Receipt) -> tuple[Query, ...]:
    """What must be known to take a recorded change back."""
    kind = rule(receipt.operation)
    if kind.reverse_queries is None:
        return kind.queries(**receipt.arguments)
    return kind.reverse_queries(prior=receipt.prior, made=receipt.made, **receipt.arguments)


def trouble(item: str, receipt: Receipt) -> str:
    """Why what stands on a host as the receipt of an item is none that we can act upon; "" when it is."""
    if receipt.item != item:
        return f"it is about {receipt.item}"
    try:
        kind = rule(receipt.operation)
        kind.queries(**receipt.arguments)
        kind.measured(**receipt.arguments)
        reverse_queries(receipt)
    except (KeyError, TypeError, ValueError, AttributeError, ImportError):
        return f"this version of mxc-ops knows no {receipt.operation} with such arguments"
    return ""


def unmeasured(receipt: Receipt) -> Decision | None:
    """The refusal to reverse a change that ended before it was known what it made; None when it is known."""
    # What is measured by a snapshot is needed for the way back, other measures only tell drift. A change that
    # failed by itself was measured.
    if receipt.state != PENDING or not rule(receipt.operation).snapshot(**receipt.arguments):
        return None
    return Decision(
        "unfinished",
        "as before",
        refusal="the change was interrupted before it was known what it made: first let it complete or fail",
        fix=preparing(receipt.item, alone=True),
    )


def reversal(receipt: Receipt, told: Sequence[Any]) -> Decision:
    """How to take a recorded change back, from the answers to `reverse_queries`."""
    return _read(receipt, told)[1]


def as_it_stands(receipt: Receipt, told: Sequence[Any]) -> Receipt:
    """The reading of a receipt that what is there agrees with; `told`: the answers to `reverse_queries`."""
    return _read(receipt, told)[0]


def _read(receipt: Receipt, told: Sequence[Any]) -> tuple[Receipt, Decision]:
    kind = rule(receipt.operation)
    pairs = [
        (reading, kind.reverse(*told, prior=reading.prior, made=reading.made, **reading.arguments))
        for reading in readings(receipt)
    ]
    return next((pair for pair in pairs if not pair[1].refusal), pairs[0])


def judge(receipt: Receipt, wanted: Decision, back: Decision) -> tuple[Verdict, Decision]:
    """Compare what is recorded with what is there.

    Parameters
    ----------
    wanted: the rule's decision now; commands mean that the host is not as the item wants it.
    back: the decision to reverse; a refusal means that somebody changed what we made, or uses it, nothing to
        do that it is gone.

    Returns the verdict, and a decision without commands that says what is, what was recorded, and the fix.
    """
    again = preparing(receipt.item)
    if receipt.state != COMPLETE:
        what = "was interrupted" if receipt.state == PENDING else "failed"
        return Verdict.UNFINISHED, Decision(
            wanted.before, wanted.after, refusal=f"the change {what}", fix=again
        )
    if wanted.unread or (back.unread and not wanted.commands):
        untold = f"whether it is as recorded cannot be told: {wanted.before}"
        return Verdict.UNKNOWN, Decision(
            wanted.before, wanted.after, refusal=untold, fix=back.fix or again, unread=True
        )
    if wanted.refusal:
        return Verdict.DRIFTED, replace(wanted, commands=())
    if not back.commands and not back.refusal:
        if not wanted.commands:
            return Verdict.AS_RECORDED, Decision(wanted.before, wanted.after)
        return Verdict.MISSING, Decision(
            wanted.before, wanted.after, refusal=f"gone: {back.before}", fix=again, files=wanted.files
        )
    if receipt.operation == _PACKAGES and not wanted.commands:
        # That others have come to need ours makes them hard to take back, and no drift.
        return Verdict.AS_RECORDED, Decision(wanted.before, wanted.after)
    changed = "" if back.in_use or back.unread else back.refusal
    if changed or wanted.commands:
        difference = changed or f"{wanted.before}; recorded was {wanted.after}"
        # What the rule would accept from somebody else, it does not mend.
        anew = f"mxc-ops prep undo --item {receipt.item} --force --yes && {again}" if again else ""
        return Verdict.DRIFTED, Decision(
            wanted.before,
            wanted.after,
            refusal=difference,
            fix=again if wanted.commands else anew,
            files=wanted.files,
        )
    return Verdict.AS_RECORDED, Decision(wanted.before, wanted.after)


@cache
def _known() -> dict[str, tuple[str, Need]]:
    """Every need that we know, with the containment that has it, in the order of preparation."""
    found: dict[str, tuple[str, Need]] = {}
    for containment in registry.preparable():
        module = registry.CONTAINMENTS[containment].needs
        assert module is not None
        for need in import_module(module).NEEDS:
            found.setdefault(need.identifier, (containment, need))
    return found


def preparing(item: str, *, alone: bool = False) -> str:
    """The command that prepares an item again; "" for one that this version does not know.

    Parameters
    ----------
    alone: this item only, rather than all that its backend needs.
    """
    known = _known().get(item) or _known().get(item.rpartition(".")[0])  # of a user: the need of each
    if known is None:
        return ""
    containment, need = known
    feature = f" --feature {need.feature}" if need.feature not in (BASE, COMPILER) else ""
    only = f" --item {item}" if alone else ""
    return f"mxc-ops prep host --backend {containment}{feature}{only} --yes"


def is_named(item: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns (``lxc.package.*``) names the item."""
    return any(fnmatchcase(item, pattern) for pattern in patterns)


def undo_order(recorded: Iterable[Receipt], wanted: Sequence[str]) -> list[Receipt]:
    """The receipts to be reversed, the last item first; of items that we do not know the newest first.

    Packages that go later in the same undo may need those that go first, so each receipt of packages is told
    of the others, as ``made["together"]``.

    Parameters
    ----------
    wanted: items, or patterns of theirs; none: all.
    """
    order = {name: place for place, name in enumerate(_known())}
    chosen = [receipt for receipt in recorded if not wanted or is_named(receipt.item, wanted)]
    chosen.sort(key=lambda receipt: receipt.at, reverse=True)
    chosen.sort(key=lambda receipt: order.get(receipt.item, len(order)), reverse=True)
    together = [
        name for receipt in chosen if receipt.operation == _PACKAGES for name in receipt.made.get("added", [])
    ]
    return [
        replace(receipt, made={**receipt.made, "together": together})
        if receipt.operation == _PACKAGES
        else receipt
        for receipt in chosen
    ]
