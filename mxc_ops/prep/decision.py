"""What a rule is made of: the facts it asks for, the decision it comes to, the way back. Pure data.

::

    Query  ──(the host's answer)──▶  Rule.decide  ──▶  Decision  ──(commands)──▶  the host, and a receipt
                                     Rule.reverse ◀──  the receipt's `prior` and `made`

A command is a line for the host's shell, run with root's rights. A rule answers no commands once they have
been run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

__all__ = [
    "DEFAULT_DEADLINE_S",
    "FORGET",
    "OWN_SOURCES",
    "Decision",
    "FileChange",
    "Query",
    "Rule",
    "Upload",
    "no_measures",
    "no_snapshot",
    "nothing_to_do",
    "write_file",
]

DEFAULT_DEADLINE_S = 120

OWN_SOURCES = "our own sources"
"""Stands for the archive of `remote_doctor.sources`, which is no file, as the source of an `Upload`."""

FORGET = "true"
"""Does nothing: for a reversal that, when the user insists, only removes the record."""


@dataclass(frozen=True)
class Query:
    """A fact to be read: `fact` names a class below `mxc_ops.prep.facts`, such as ``files.Texts``."""

    fact: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class FileChange:
    """One text file, for ``--diff``: None where there is no file."""

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Upload:
    """A file of the controller's that the commands find on the host.

    Parameters
    ----------
    source: its path here, or `OWN_SOURCES`.
    name: commands find it at ``"$uploads/NAME"``; they must check its sum before they use it.
    """

    source: str
    name: str


@dataclass(frozen=True)
class Decision:
    """What is, what would be, and what must be done for it.

    Parameters
    ----------
    before, after: for people; one line each.
    commands: none: nothing to do. Each stands on its own; the first that fails ends the item.
    refusal: why it must not be done; `fix`: what a person can do about that. A refusal to *reverse* may carry
        commands: they are run when the user insists.
    prior: what is needed to go back; JSON. Only the first decision about an item is recorded.
    made: what the commands make; JSON. `reverse` compares it with what is there, to notice drift.
    uploads: files that the commands need.
    files: for ``--diff``.
    notice: what the reader of the plan must know, e.g. that a second run may change it again.
    restart: the host must be restarted before this takes effect.
    deadline_s: seconds after which the commands are killed, on the host.
    in_use: it must not be reversed only because somebody uses it; what was made is as it was made.
    unread: all that may be wrong is what could not be read; the commands are for the case that it is.
    """

    before: str
    after: str
    commands: tuple[str, ...] = ()
    refusal: str = ""
    fix: str = ""
    prior: Mapping[str, Any] = field(default_factory=dict[str, Any])
    made: Mapping[str, Any] = field(default_factory=dict[str, Any])
    uploads: tuple[Upload, ...] = ()
    files: tuple[FileChange, ...] = ()
    notice: str = ""
    restart: bool = False
    deadline_s: int = DEFAULT_DEADLINE_S
    in_use: bool = False
    unread: bool = False


def no_snapshot(**_arguments: Any) -> str:
    """For a rule that knows beforehand what it will have made."""
    return ""


def no_measures(**_arguments: Any) -> Mapping[str, str]:
    """For a rule that knows beforehand what it will have made."""
    return {}


@dataclass(frozen=True)
class Rule:
    """One kind of item. Each function takes the item's arguments by keyword; all are pure.

    Parameters
    ----------
    queries: ``(**arguments) -> tuple[Query, ...]``, the facts that the others need.
    decide: ``(*answers, **arguments) -> Decision``, the answers in the order of the queries.
    reverse: ``(*answers, prior=…, made=…, **arguments) -> Decision``. No commands and no refusal: nothing is
        left to reverse. A refusal: the host has drifted from what was made; it names the difference.
    snapshot: ``(**arguments) -> str``, a command whose output is kept in ``"$receipt.before"`` from before
        the first change until the record is complete.
    measured: ``(**arguments) -> {name: command}``: the lines that each command prints after the change are
        added to `made` as a list. For what cannot be foretold, such as the packages that come along.
    reverse_queries: ``(*, prior=…, made=…, **arguments) -> tuple[Query, ...]``, the facts that `reverse`
        needs, where they depend on what was made; None: those of `queries`.
    """

    queries: Callable[..., tuple[Query, ...]]
    decide: Callable[..., Decision]
    reverse: Callable[..., Decision]
    snapshot: Callable[..., str] = no_snapshot
    measured: Callable[..., Mapping[str, str]] = no_measures
    reverse_queries: Callable[..., tuple[Query, ...]] | None = None


def nothing_to_do(state: str, *, notice: str = "") -> Decision:
    """The host is as wanted; `state` says how."""
    return Decision(state, state, notice=notice)


def write_file(path: str, content: str, *, mode: str = "0644") -> str:
    """A command that puts a text in place in one step, its directory made if need be.

    A file that is there already keeps its mode and owner.

    Parameters
    ----------
    mode: of a new file; octal, as for chmod(1).
    """
    folder, _, name = path.rpartition("/")
    place, temporary = quote(path), quote(f"{folder}/.{name}.new")
    new = f": > {temporary} && chmod {mode} {temporary}"
    return (
        f"umask 022 && mkdir -p {quote(folder)} && rm -f {temporary}"
        f" && if test -f {place}; then cp -p {place} {temporary}; else {new}; fi"
        f" && printf %s {quote(content)} > {temporary} && mv -f {temporary} {place}"
    )
