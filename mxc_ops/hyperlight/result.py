"""What a run of code came to."""

from __future__ import annotations

from typing import Any

from backends.ended import Outcome
from backends.errors import MxcError, Problem
from backends.frozen import frozen

__all__ = ["CodeError", "CodeFailed", "CodeResult", "OutputFiles", "ToolCall"]


@frozen
class CodeError:
    """An exception that code in the guest did not catch; all of it is the guest's own words."""

    type: str
    message: str
    traceback: str = ""


@frozen
class ToolCall:
    """A call of a function of the host: `arguments` as JSON (its first 1000 characters), `error` the type of
    what went wrong, "" when nothing did. `ms` is how long it took here."""

    name: str
    arguments: str
    error: str
    ms: float


@frozen
class OutputFiles:
    """What the output folder holds now: names relative to it. `skipped` are links, which are not brought.

    `problem` says why nothing was brought this time, if that is so; the host's folder is as it was then.
    """

    names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    problem: str = ""


@frozen
class CodeResult:
    """One run.

    Parameters
    ----------
    exit_code: 0, 1 for an exception, what ``sys.exit`` was given, 128 + signal or what the interpreter ended
        with where it was lost, 124 when it timed out.
    outcome: EXITED also when an exception ended the code; TIMED_OUT, SIGNALLED, KILLED: as of `Result`.
    value: that of the last expression where JSON holds it, else None.
    value_repr: the same as the interpreter shows it, "" without one, or when it is None.
    error: the exception that ended the code, or what became of the interpreter.
    state_lost: the interpreter has ended: names are gone, files are there. The next run starts another.
    fresh: the interpreter began with this run.
    calls: of host functions, in the order of their beginnings.
    timings: (what, ms since `run` was called), as far as it happened: ``ready``, ``started``, ``done``,
        ``output``.
    """

    exit_code: int
    outcome: Outcome
    stdout_bytes: bytes
    stderr_bytes: bytes
    stdout_dropped_bytes: int
    stderr_dropped_bytes: int
    value: Any
    value_repr: str
    error: CodeError | None
    state_lost: bool
    fresh: bool
    calls: tuple[ToolCall, ...]
    output: OutputFiles
    timings: tuple[tuple[str, float], ...]

    @property
    def stdout(self) -> str:
        """Text; what is no UTF-8 is shown with backslashes."""
        return self.stdout_bytes.decode(errors="backslashreplace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode(errors="backslashreplace")

    @property
    def ok(self) -> bool:
        ended = self.exit_code == 0 and self.outcome is Outcome.EXITED and self.error is None
        return ended and not self.output.problem

    @property
    def success(self) -> bool:
        """As `ok`: the word of Hyperlight's own package."""
        return self.ok

    @property
    def timed_out(self) -> bool:
        return self.outcome is Outcome.TIMED_OUT

    def check(self) -> CodeResult:
        """This result when the code succeeded; else raises `CodeFailed`."""
        if self.ok:
            return self
        if self.error is not None:
            message = f"the code failed: {self.error.type}: {self.error.message}"
        elif self.output.problem and self.exit_code == 0:
            message = f"the output folder was not brought back: {self.output.problem}"
        else:
            message = f"the code exited with {self.exit_code}"
        raise CodeFailed(Problem(CodeFailed.code, "", message), self)


class CodeFailed(MxcError):
    """Code itself did not succeed; raised by `CodeResult.check` only. `result` is the whole result."""

    code = "command_failed"

    def __init__(self, problem: Problem, result: CodeResult) -> None:
        super().__init__(problem)
        self.result = result
