"""What tests of rules say of decisions."""

from __future__ import annotations

from mxc_ops.prep.decision import Decision

__all__ = ["applied", "at_rest"]


def at_rest(decision: Decision) -> bool:
    return not decision.commands and not decision.refusal


def applied(texts: dict[str, str], decision: Decision) -> dict[str, str]:
    """The texts after a decision about files."""
    after = {**texts, **{change.path: change.after for change in decision.files}}
    return {path: text for path, text in after.items() if text is not None}
