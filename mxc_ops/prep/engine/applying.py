"""Carry steps out on one host, one after another, until one fails; then look whether they hold."""

# pyright: reportUnknownMemberType=false
# pyinfra annotates states incompletely.

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from pyinfra.api.exceptions import OperationError, PyinfraError
from pyinfra.api.operation import OperationMeta
from pyinfra.context import state as pyinfra_state

from mxc_ops.prep.engine.connection import assert_not_lost
from mxc_ops.prep.engine.fixes import with_all_rights
from mxc_ops.prep.engine.planning import DRIFTED, Step, plan_items, planned
from mxc_ops.prep.engine.session import Session
from mxc_ops.prep.engine.tell import Teller, last_words
from mxc_ops.prep.items import WINDOWS, Item
from mxc_ops.prep.messages import Event, Request

__all__ = ["apply"]

# Beyond what the host itself allows a change: its deadline, and the wait for one that was interrupted.
_PATIENCE_S = 1000
_BY_HAND_LENGTH = 500


def apply(
    session: Session,
    steps: Sequence[Step],
    request: Request,
    teller: Teller,
    may_go_on: Callable[[], bool],
) -> tuple[list[Step], bool]:
    """Carry out what changes, and what that has made due.

    Returns what was done, and whether that is all and holds.

    Parameters
    ----------
    may_go_on: asked before each step; False stops this host as well.
    """
    done, succeeded = _carry_out_all(session, steps, request, teller, may_go_on)
    due, held = _look_again(session, [step.item for step in steps if step.item], done, teller)
    if not due or not succeeded:
        return done, succeeded and held
    told = [planned(step, session.facts.system) for step in due]
    teller.tell(Event.DUE, session.host.name, items=told)
    later, succeeded = _carry_out_all(session, due, request, teller, may_go_on)
    _, held_too = _look_again(session, [step.item for step in later if step.item], later, teller)
    return [*done, *later], succeeded and held and held_too


def _carry_out_all(
    session: Session,
    steps: Sequence[Step],
    request: Request,
    teller: Teller,
    may_go_on: Callable[[], bool],
) -> tuple[list[Step], bool]:
    """Carry out what changes, until something fails. Returns what was done, and whether that is all."""
    name = session.host.name
    done: list[Step] = []
    for step in steps:
        if not step.changes:
            continue
        if not may_go_on():
            teller.tell(
                Event.STOPPED, name, message=f"stopped before {step.identifier}: too many hosts failed"
            )
            return done, False
        teller.tell(Event.STARTED, name, item=step.identifier)
        message, changed = _carry_out(session, step, teller)
        if message:
            fix = _by_hand(session, step, request)
            teller.tell(Event.FAILED, name, item=step.identifier, message=message, fix=fix)
            return done, False
        teller.tell(Event.CHANGED, name, item=step.identifier, changed=changed)
        done.append(step)
    return done, True


def _carry_out(session: Session, step: Step, teller: Teller) -> tuple[str, bool]:
    """Call the step's operation: "" when it succeeded, else what went wrong; and whether it did anything.

    Another preparation may have done it since the plan was made.
    Raises `SSHException`, `EOFError` or `OSError` when the host cannot be reached any more.
    """
    operation, arguments = _operation(step)
    host = session.host
    deadline = step.decision.deadline_s * max(1, len(step.decision.commands)) + _PATIENCE_S
    before = len(host.op_hash_order)
    try:
        operation(name=step.identifier, _ignore_errors=True, _timeout=deadline, **arguments)
    except (TimeoutError, ConnectionError):
        raise  # of the host, not of the item
    except (OperationError, PyinfraError, OSError) as error:
        return str(error) or type(error).__name__, False
    meta: OperationMeta = pyinfra_state.ops[host][host.op_hash_order[before]].operation_meta
    lines = meta.stdout_lines + meta.stderr_lines
    teller.log(host.name, lines)
    if meta.did_error():
        assert_not_lost(host)
        return last_words(lines) or "it failed without a word", True
    return "", meta.did_change()


def _operation(step: Step) -> tuple[Callable[..., OperationMeta], dict[str, Any]]:
    if step.item is None:
        insist = step.decision.notice.startswith(DRIFTED)
        return operation_named("receipts.reversed_change"), {"receipt": step.receipt, "insist": insist}
    return operation_named(step.item.operation), {**step.item.arguments, "item": step.identifier}


def operation_named(name: str) -> Callable[..., OperationMeta]:
    """The operation that carries a rule out, by the rule's name."""
    area, _, kind = name.partition(".")
    return getattr(import_module(f"mxc_ops.prep.operations.{area}"), kind)


def _by_hand(session: Session, step: Step, request: Request) -> str:
    """What a person can paste to see the failure for themselves, where that is short enough."""
    script = " && ".join(step.decision.commands)
    windows = session.facts.system == WINDOWS
    if windows or step.decision.uploads or not 0 < len(script) <= _BY_HAND_LENGTH:
        return "mend what the message says, then the same command again"
    return with_all_rights(script, session, request)


def _look_again(
    session: Session, items: Sequence[Item], done: Sequence[Step], teller: Teller
) -> tuple[list[Step], bool]:
    """Decide again, once something was changed: of that, nothing must be left to do.

    Returns what is due only now, such as the settings of a module that was loaded, and whether all holds.
    """
    changed = {step.identifier for step in done}
    if not items or not changed:
        return [], True
    for identifier in changed:
        session.access.receipts.pop(identifier, None)  # as it was before: complete by now
    due: list[Step] = []
    held = True
    for step in plan_items(session, items):
        settled = not step.decision.commands and not step.decision.refusal
        if step.identifier in changed:
            held = held and settled
            teller.tell(
                Event.CHECKED,
                session.host.name,
                item=step.identifier,
                settled=settled,
                before=step.decision.before,
            )
        elif step.decision.commands and not step.decision.refusal:
            due.append(step)
    return due, held
