"""What would be done on one host: for each item, or for each receipt that is to be taken back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from shlex import quote
from typing import Any

from mxc_ops.prep.decision import Decision
from mxc_ops.prep.engine.session import Session, ask_all
from mxc_ops.prep.items import WINDOWS, Item
from mxc_ops.prep.operations.common import HostFailure
from mxc_ops.prep.receipts import COMPLETE, DIRECTORY, WINDOWS_DIRECTORY, Receipt
from mxc_ops.prep.rules import rule
from mxc_ops.prep.sharing import needed_by_others, needed_for_undo, recorded_as
from mxc_ops.prep.undoing import Verdict, is_named, judge, reversal, reverse_queries, undo_order, unmeasured

__all__ = ["DRIFTED", "Step", "plan_items", "plan_undo", "planned", "verify"]

DRIFTED = "although it has drifted"
"""How the notice of a decision begins that is carried out because the user insists."""
# To PowerShell, typographic quotes end a double-quoted string just as well.
_SPECIAL = re.compile('[`$"\u201c\u201d\u201e]')


@dataclass(frozen=True)
class Step:
    """One item and the decision about it. `unfinished`: an earlier change was interrupted, or failed."""

    identifier: str
    kind: str
    why: str
    decision: Decision
    unfinished: bool = False
    item: Item | None = None
    receipt: Receipt | None = None
    verdict: str = ""

    @property
    def changes(self) -> bool:
        """Whether something is to be done; a receipt of what is gone already is still to be removed."""
        return bool(self.decision.commands) or self.unfinished or self.receipt is not None


def plan_items(session: Session, items: Sequence[Item]) -> list[Step]:
    """Decide about each item, from one survey: a step for each, in their order.

    Raises `HostFailure` when the host cannot answer.
    """
    told = ask_all([(item.identifier, rule(item.operation).queries(**item.arguments)) for item in items])
    steps: list[Step] = []
    for one in items:
        decision = _decided(one.operation, rule(one.operation).decide, told[one.identifier], one.arguments)
        item = _under_its_record(session, one, items) if decision.commands else one
        receipt = session.access.receipts.get(item.identifier)
        unfinished = receipt is not None and receipt.state != COMPLETE
        if item.identifier in session.unreadable:
            decision, unfinished = _unreadable(session, item.identifier, decision), False
        verdict = ""
        if not unfinished:
            decision, verdict = _by_these_rights(session, decision)
        steps.append(Step(item.identifier, item.kind, item.why, decision, unfinished, item, verdict=verdict))
    return steps


def _under_its_record(session: Session, item: Item, items: Sequence[Item]) -> Item:
    """Who has what is to be changed recorded already keeps it, unless their own item comes to it."""
    name = recorded_as(item, session.access.receipts)
    return item if any(other.identifier == name for other in items) else replace(item, identifier=name)


def _by_these_rights(session: Session, decision: Decision, verdict: str = "") -> tuple[Decision, str]:
    """A decision and its verdict; what only root may read is neither drift nor a change that is due."""
    if not decision.unread or session.access.elevation != "none":
        return decision, verdict
    why = decision.refusal or f"whether it is as wanted cannot be told: {decision.before}"
    blind = replace(decision, commands=(), refusal=why, fix="", notice="", files=())
    return blind, Verdict.NEEDS_PRIVILEGE.value


def _unreadable(session: Session, item: str, decision: Decision) -> Decision:
    if session.facts.system == WINDOWS:
        path = rf"{WINDOWS_DIRECTORY}\{item}.json"
        # The variable is expanded in double quotes only; the name, which may be anybody's, must not be.
        named = _SPECIAL.sub(r"`\g<0>", item)
        removal = rf'Remove-Item -LiteralPath "{WINDOWS_DIRECTORY}\{named}.json"'
    else:
        path = f"{DIRECTORY}/{item}.json"
        removal = f"rm -- {quote(path)}"
    return Decision(
        decision.before,
        decision.after,
        refusal=f"the record of what was changed cannot be understood: {path}: {session.unreadable[item]}",
        fix=f"look at it, then: {removal}",
    )


def _decided(
    operation: str, judge_by: Callable[..., Decision], told: Sequence[Any], arguments: Mapping[str, Any]
) -> Decision:
    try:
        return judge_by(*told, **arguments)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise HostFailure(f"{operation} does not understand the host's answer: {error!r}") from error


def plan_undo(session: Session, wanted: Sequence[str], *, insist: bool) -> list[Step]:
    """Decide how to take back what is recorded, in the order in which it must be done.

    Parameters
    ----------
    wanted: items; none: everything.
    insist: a refusal that can be overruled is no refusal.
    """
    recorded = undo_order(session.access.receipts.values(), wanted)
    steps: list[Step] = []
    undone = {receipt.item for receipt in recorded}
    remaining = [receipt for item, receipt in session.access.receipts.items() if item not in undone]
    for receipt, decision in _reversals(recorded):
        final = _final(receipt.item, decision, insist=insist)
        if final.commands and not final.refusal:
            final = _relied_upon(session, receipt, final, remaining, insist=insist)
        final, verdict = _by_these_rights(session, final)
        due = None if verdict else receipt
        why = f"changed {receipt.at}"
        steps.append(Step(receipt.item, "receipt", why, final, receipt=due, verdict=verdict))
    unreadable = [item for item in session.unreadable if not wanted or is_named(item, wanted)]
    for item in unreadable:
        decision = _unreadable(session, item, Decision("recorded", "as before"))
        steps.append(Step(item, "receipt", "asked for", decision))
    known = [*session.access.receipts, *session.unreadable]
    for pattern in wanted:
        if not any(is_named(item, [pattern]) for item in known):
            decision = Decision(
                "not recorded",
                "as before",
                refusal="nothing is recorded of it: it was not changed by us",
                fix="see what is recorded: mxc-ops prep verify",
            )
            steps.append(Step(pattern, "receipt", "asked for", decision))
    return steps


def _final(item: str, decision: Decision, *, insist: bool) -> Decision:
    if not decision.refusal:
        return decision
    if insist and decision.commands:
        return replace(decision, refusal="", fix="", notice=f"{DRIFTED}: {decision.refusal}")
    fix = decision.fix or (f"mxc-ops prep undo --item {item} --force" if decision.commands else "")
    return replace(decision, fix=fix)


def _relied_upon(
    session: Session, receipt: Receipt, decision: Decision, remaining: Sequence[Receipt], *, insist: bool
) -> Decision:
    """The decision to reverse, refused while others rely on what was changed."""
    recorded = [*(other.item for other in remaining), *session.unreadable]
    first = needed_for_undo(receipt.item, recorded)
    others = needed_by_others(receipt, remaining)
    needed = [f"{' and '.join(first)} cannot be taken back without it"] if first else []
    needed += [f"what was changed is needed for {' and '.join(others)} as well"] if others else []
    if not needed:
        return decision
    if insist:
        return replace(decision, notice="; ".join(filter(None, [decision.notice, *needed])))
    items = "".join(f" --item {item}" for item in (*first, receipt.item))
    force = " --force" if others else ""
    return replace(decision, refusal="; ".join(needed), fix=f"mxc-ops prep undo{items}{force}")


def _reversals(recorded: Sequence[Receipt]) -> list[tuple[Receipt, Decision]]:
    told = ask_all([(receipt.item, reverse_queries(receipt)) for receipt in recorded])
    return [(receipt, unmeasured(receipt) or reversal(receipt, told[receipt.item])) for receipt in recorded]


def verify(session: Session) -> list[Step]:
    """Compare what is recorded with what is there; see `undoing.judge`."""
    recorded = list(session.access.receipts.values())
    told = ask_all(
        [(receipt.item, rule(receipt.operation).queries(**receipt.arguments)) for receipt in recorded]
    )
    steps: list[Step] = []
    for receipt, back in _reversals(recorded):
        kind = rule(receipt.operation)
        wanted = _decided(receipt.operation, kind.decide, told[receipt.item], receipt.arguments)
        judged, decision = judge(receipt, wanted, back)
        decision, verdict = _by_these_rights(session, decision, judged.value)
        steps.append(Step(receipt.item, "receipt", f"changed {receipt.at}", decision, verdict=verdict))
    for item in session.unreadable:
        decision = _unreadable(session, item, Decision("recorded", "as recorded"))
        steps.append(Step(item, "receipt", "recorded", decision, verdict=Verdict.UNKNOWN.value))
    return steps


def planned(step: Step, system: str) -> dict[str, Any]:
    """A step as the parent is told of it; `system`: the host's."""
    decision = step.decision
    notice = "; ".join(
        filter(None, [decision.notice, "completes an earlier change" if step.unfinished else ""])
    )
    return {
        "item": step.identifier,
        "kind": step.kind,
        "why": step.why,
        "privilege": "administrator" if system == WINDOWS else "root",
        "before": decision.before,
        "after": decision.after,
        "changes": step.changes,
        "message": decision.refusal,
        "fix": decision.fix,
        "notice": notice,
        "restart": decision.restart,
        "verdict": step.verdict,
        "files": [asdict(file) for file in decision.files] if step.changes else [],
    }
