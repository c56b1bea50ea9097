"""What every operation here is made of: read a fact, decide, carry the decision out.

pyinfra's own annotations are incomplete; this is where they get complete types.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

from pyinfra.api import operation as pyinfra_operation  # pyright: ignore[reportPrivateImportUsage, reportUnknownVariableType]
from pyinfra.api.command import StringCommand
from pyinfra.api.exceptions import OperationError
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import OperationMeta
from pyinfra.context import host

from mxc_ops.prep.decisions import Decision

__all__ = ["Commands", "carry_out", "latest_decision", "operation", "read"]

Commands = Generator[StringCommand, None, None]
_Parameters = ParamSpec("_Parameters")
_Answer = TypeVar("_Answer")
_latest: ContextVar[Decision] = ContextVar("latest decision")


def operation(function: Callable[_Parameters, Commands]) -> Callable[_Parameters, OperationMeta]:
    """Make a generator of commands a pyinfra operation; pyinfra's global arguments are accepted as well."""
    return cast(Callable[_Parameters, OperationMeta], pyinfra_operation()(function))


def read(fact: type[FactBase[_Answer]], **arguments: Any) -> _Answer:
    """A fact of the host that pyinfra is at."""
    return host.get_fact(fact, **arguments)  # pyright: ignore[reportUnknownMemberType]


def carry_out(decision: Decision) -> Commands:
    """The decision's commands, for an operation to yield.

    Raises `OperationError` when the decision is a refusal.
    """
    _latest.set(decision)
    if decision.refusal:
        raise OperationError(f"{decision.refusal}; {decision.fix}")
    if not decision.commands:
        host.noop(decision.before)
    for command in decision.commands:
        yield StringCommand(command)


def latest_decision() -> Decision:
    """The decision of the operation that was prepared last in this greenlet: what was, what would be."""
    return _latest.get()
