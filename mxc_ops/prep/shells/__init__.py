"""How commands are put together for a host's shell: surveys, journalled changes, the lock. Pure.

A `Shell` is what the engine needs of one; `sh.SHELL` is POSIX sh, `powershell.SHELL` Windows PowerShell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mxc_ops.prep.receipts import Receipt

__all__ = ["HELD_BY_ANOTHER", "UPLOADS", "UPLOADS_LETTERS", "Change", "Shell"]

UPLOADS, UPLOADS_LETTERS = "mxc-ops-{}", 32
"""Names of directories below /tmp for what is brought to a host, by so many letters that nobody can guess."""

HELD_BY_ANOTHER = 75
"""Exit status of `Shell.hold` when another preparation holds the host (EX_TEMPFAIL of sysexits.h)."""


@dataclass(frozen=True)
class Change:
    """One item's change as a whole: the record, the commands, the record completed, or that it failed.

    Parameters
    ----------
    receipt: as it will be, but for the time and for what is measured.
    commands: in order; none: only the record of an earlier change is completed.
    snapshot, measured: see `decision.Rule`.
    uploads: the directory on the host that holds the item's uploads, "" for none.
    deadline_s: each command is killed after this many seconds, with all that it started. The change as a
        whole has as long, and as long as it is patient with an interrupted one that is still at work.
    """

    receipt: Receipt
    commands: Sequence[str]
    snapshot: str = ""
    measured: Mapping[str, str] = field(default_factory=dict[str, str])
    uploads: str = ""
    deadline_s: int = 120


class Shell(Protocol):
    """Commands for one kind of shell."""

    def survey(self, commands: Sequence[str], deadline_s: int) -> str:
        """One command that runs each of the given ones and parts their outputs."""
        ...

    def answers(self, output: Sequence[str], count: int) -> list[list[str]]:
        """The lines that each of `count` surveyed commands printed. Raises `ValueError` for a cut-off one."""
        ...

    def change(self, change: Change) -> str:
        """One command that makes a change and its receipt; without a receipt when its item is ""."""
        ...

    def reversal(self, change: Change) -> str:
        """One command that takes a change back and removes its receipt, once all commands have succeeded."""
        ...

    def hold(self, holder: str, wait_s: int) -> str:
        """A command that holds the host for one preparation until its standard input ends.

        While it holds, the command of `holder` prints `holder`. It exits with `HELD_BY_ANOTHER` after
        `wait_s` seconds in vain, having printed who holds it.
        """
        ...

    def holder(self) -> str:
        """A command that prints who holds the host, nothing when nobody does."""
        ...

    def elevated(self, command: str, elevation: str) -> str:
        """The command run with all rights.

        Parameters
        ----------
        elevation: ``root`` (we have them), ``sudo``, ``sudo-password`` (the password is the first line of
            standard input), ``doas``; on Windows ``administrator``.
        """
        ...
