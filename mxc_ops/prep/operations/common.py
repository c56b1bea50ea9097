"""What every operation here is made of: read facts, decide by the rule, carry the decision out.

Under plain pyinfra, facts are read one by one and pyinfra's own ``_sudo`` applies. Under our engine, which
sets `access`, all facts of a rule are read by one command, with the rights that were found on the host.
pyinfra's own annotations are incomplete; this is where they get complete types.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any, ParamSpec, cast

from paramiko.ssh_exception import SSHException
from pyinfra.api import operation as pyinfra_operation  # pyright: ignore[reportPrivateImportUsage, reportUnknownVariableType]
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS
from pyinfra.api.command import FileUploadCommand, StringCommand
from pyinfra.api.exceptions import OperationError, PyinfraError
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import OperationMeta
from pyinfra.context import host

from mxc_ops.prep.decision import OWN_SOURCES, Decision, Query, Upload
from mxc_ops.prep.receipts import COMPLETE, DIRECTORY, Receipt, Unreadable, decode, merged
from mxc_ops.prep.remote_doctor import sources
from mxc_ops.prep.rules import rule
from mxc_ops.prep.shells import UPLOADS, UPLOADS_LETTERS, Change, Shell
from mxc_ops.prep.shells.sh import SHELL
from mxc_ops.prep.undoing import as_it_stands, reversal, reverse_queries, unmeasured

__all__ = ["Access", "Commands", "HostFailure", "access", "answers", "follow", "go_back", "operation"]

Commands = Generator[StringCommand | FileUploadCommand, None, None]
_Parameters = ParamSpec("_Parameters")
SURVEY_DEADLINE_S = 60


class HostFailure(PyinfraError):
    """The host answered, but would not or could not do what was asked; the message says why."""


@dataclass(frozen=True)
class Access:
    """How commands reach root's rights on a host, and what is known there already.

    Parameters
    ----------
    elevation: see `Shell.elevated`; ``none`` reads facts with the rights that there are.
    password: for ``sudo-password``; handed over by standard input, never in a command.
    receipts: by item.
    """

    shell: Shell = SHELL
    elevation: str = "none"
    password: str = field(default="", repr=False)
    controller: str = ""
    receipts: dict[str, Receipt] = field(default_factory=dict[str, Receipt])

    def elevated(self, command: str) -> str:
        return command if self.elevation == "none" else self.shell.elevated(command, self.elevation)

    @property
    def stdin(self) -> list[str] | None:
        return [self.password] if self.elevation == "sudo-password" else None


access: ContextVar[Access | None] = ContextVar("access", default=None)
_PLAIN = Access(controller="pyinfra")


def operation(function: Callable[_Parameters, Commands]) -> Callable[_Parameters, OperationMeta]:
    """Make a generator of commands a pyinfra operation; pyinfra's global arguments are accepted as well."""
    return cast(Callable[_Parameters, OperationMeta], pyinfra_operation()(function))


@cache
def fact(name: str) -> type[FactBase[Any]]:
    """The fact's class, by the name that a `Query` uses."""
    area, _, kind = name.partition(".")
    return getattr(import_module(f"mxc_ops.prep.facts.{area}"), kind)


def answers(queries: Sequence[Query]) -> list[Any]:
    """What the host that pyinfra is at answers to each query. Raises `HostFailure` when it cannot."""
    current = access.get()
    if current is None:
        return [host.get_fact(fact(query.fact), **query.arguments) for query in queries]  # pyright: ignore[reportUnknownMemberType]
    if not queries:
        return []
    facts = [(fact(query.fact)(), query.arguments) for query in queries]
    commands = [_text(kind.command(**arguments)) for kind, arguments in facts]  # pyright: ignore[reportUnknownMemberType]
    survey = current.elevated(current.shell.survey(commands, SURVEY_DEADLINE_S))
    worked, output = host.run_shell_command(  # pyright: ignore[reportUnknownMemberType]
        StringCommand(survey), _stdin=current.stdin, _timeout=SURVEY_DEADLINE_S + 10
    )
    if not worked:
        raise HostFailure(" | ".join(output.stderr_lines[-3:]) or "the host answered nothing")
    try:
        parts = current.shell.answers(output.stdout_lines, len(commands))
    except ValueError as error:
        raise HostFailure(str(error)) from error
    return [_answer(kind, lines) for (kind, _), lines in zip(facts, parts, strict=True)]


def _text(command: str | StringCommand) -> str:
    return command if isinstance(command, str) else command.get_raw_value()


def _answer(kind: FactBase[Any], lines: list[str]) -> Any:
    # As pyinfra does: a fact without output is its default.
    return kind.process(lines) if lines else kind.default()


def follow(name: str, item: str, **arguments: Any) -> Commands:
    """The commands of an operation: none when the host is as wanted.

    Parameters
    ----------
    name: of the operation, such as ``kernel.setting``.
    item: an identifier under which a receipt is kept on the host; "" for none.

    Raises `OperationError` when the rule refuses.
    """
    kind = rule(name)
    decision = kind.decide(*answers(kind.queries(**arguments)), **arguments)
    if decision.refusal:
        raise OperationError(f"{decision.refusal}; {decision.fix}")
    current = access.get() or _PLAIN
    earlier = _recorded(item)
    unfinished = earlier is not None and earlier.state != COMPLETE
    if not decision.commands and not unfinished:
        host.noop(decision.before)
        return
    new = Receipt(item, name, arguments, decision.prior, decision.made, by=current.controller)
    receipt = merged(earlier, new)
    if earlier and not decision.commands:
        receipt = as_it_stands(replace(receipt, state=earlier.state), answers(reverse_queries(receipt)))
    change = Change(
        receipt,
        decision.commands,
        kind.snapshot(**arguments),
        kind.measured(**arguments),
        _uploads_folder(decision),
        decision.deadline_s,
    )
    yield from _uploaded(decision.uploads, change.uploads)
    yield _command(current, current.shell.change(change))


def _recorded(item: str) -> Receipt | None:
    """What is recorded of an item on the host. Raises `OperationError` when that cannot be understood."""
    current = access.get()
    if current is not None or not item:
        return current.receipts.get(item) if current else None
    text: str | None = host.get_fact(fact("receipts.Receipts")).get(item)  # pyright: ignore[reportUnknownMemberType]
    if text is None:
        return None
    try:
        return decode(text)
    except Unreadable as error:
        path = f"{DIRECTORY}/{item}.json"
        raise OperationError(f"{path} cannot be understood: {error}; look at it, then: rm {path}") from error


def go_back(receipt: Receipt, *, insist: bool) -> Commands:
    """The commands that take a recorded change back: none when another preparation has done it meanwhile.

    Parameters
    ----------
    receipt: as it was read, or with more in its `made`.

    Raises `OperationError` when the rule refuses.
    """
    recorded = _recorded(receipt.item)
    if recorded is None:
        host.noop("taken back already")
        return
    receipt = replace(recorded, made={**receipt.made, **recorded.made})
    decision = unmeasured(receipt) or reversal(receipt, answers(reverse_queries(receipt)))
    if decision.refusal and not (insist and decision.commands):
        raise OperationError(f"{decision.refusal}; {decision.fix}")
    current = access.get() or _PLAIN
    change = Change(receipt, decision.commands, deadline_s=decision.deadline_s)
    yield _command(current, current.shell.reversal(change))


def _command(current: Access, script: str) -> StringCommand:
    if current.stdin is None:
        return StringCommand(current.elevated(script))
    return StringCommand(current.elevated(script), _stdin=current.stdin)  # pyright: ignore[reportArgumentType] - pyinfra takes a list


def _uploads_folder(decision: Decision) -> str:
    """Below /tmp, as whoever we are there; what arrives is checked before it is used, and removed after.

    A name that others could guess, they could have made there before us.
    """
    name = UPLOADS.format(secrets.token_hex(UPLOADS_LETTERS // 2))
    return f"/tmp/{name}" if decision.uploads else ""  # noqa: S108


def _content(source: str) -> str | BytesIO:
    return BytesIO(sources().packed) if source == OWN_SOURCES else source


def _uploaded(uploads: Sequence[Upload], folder: str) -> Commands:
    if not uploads:
        return
    # As for the other commands of the operation, under plain pyinfra with its ``_sudo``.
    given: Mapping[str, Any] = host.current_op_global_arguments or {}  # pyright: ignore[reportUnknownMemberType, reportAssignmentType]
    rights = {name: value for name, value in given.items() if name in CONNECTOR_ARGUMENT_KEYS}
    yield StringCommand(f"umask 077 && mkdir {folder}")
    try:
        for upload in uploads:
            yield FileUploadCommand(_content(upload.source), f"{folder}/{upload.name}")
    except GeneratorExit:
        # pyinfra asks for no further command once one has failed. A host that is gone cannot be tidied.
        with suppress(PyinfraError, SSHException, EOFError, OSError):
            host.run_shell_command(StringCommand(f"rm -rf {folder}"), **rights)  # pyright: ignore[reportUnknownMemberType]
        raise
