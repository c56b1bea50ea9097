"""One run of code by an interpreter that stays (blocking, in the thread of whoever asked)."""

from __future__ import annotations

import codecs
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from backends.ended import Outcome
from backends.errors import ConfigError, Problem
from backends.frozen import frozen
from backends.inside.agent_protocol import EndedFlag, GuestEnded
from mxc_ops.channels import Capture
from mxc_ops.hyperlight.calls import Calls, Host
from mxc_ops.hyperlight.exchange import Done, Exchange, Lost, Order, TimedOut
from mxc_ops.hyperlight.machine import Started
from mxc_ops.hyperlight.result import CodeError, CodeResult, OutputFiles, ToolCall
from mxc_ops.hyperlight.tools import Tool
from mxc_ops.hyperlight.turns import Ticket
from mxc_ops.result import TIMED_OUT_EXIT_CODE

__all__ = [
    "Interpreter",
    "Marks",
    "OnText",
    "Taker",
    "Wanted",
    "as_ended",
    "as_timed_out",
    "check_code",
    "concluded",
    "run_cell",
    "takers_of",
]

MAX_CODE_BYTES = 1 << 20
OnText = Callable[[str], object]


@frozen
class Interpreter:
    """One that runs, and our end of what is said with it."""

    started: Started
    exchange: Exchange


@frozen
class Wanted:
    """One run, as it was asked for. `begun` is on the monotonic clock."""

    code: str
    name: str
    tools: dict[str, Tool]
    timeout_s: float | None
    grace_s: float
    on_stdout: OnText | None
    on_stderr: OnText | None
    max_calls: int
    tool_timeout_s: float | None
    max_output_bytes: int
    begun: float


class Taker:
    """Takes one stream of output: as text, piece by piece, or as bytes, the first `most` of them."""

    def __init__(self, on_text: OnText | None, most: int) -> None:
        self.capture = Capture(most)
        self._on_text = on_text
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def __call__(self, data: bytes) -> None:
        if self._on_text is None:
            self.capture(data)
        elif text := self._decoder.decode(data):
            self._on_text(text)

    def end(self) -> None:
        if self._on_text is not None and (text := self._decoder.decode(b"", final=True)):
            self._on_text(text)


class Marks:
    """What happened when, in ms since the run was asked for."""

    def __init__(self, begun: float) -> None:
        self._begun = begun
        self.pairs: list[tuple[str, float]] = []

    def mark(self, what: str) -> None:
        self.pairs.append((what, (time.monotonic() - self._begun) * 1000))


def check_code(code: str) -> None:
    """Raises `ConfigError`."""
    if not isinstance(code, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may lack types
        raise ConfigError(Problem("wrong_type", "code", "code is text", expected="a str"))
    if len(code.encode(errors="surrogatepass")) > MAX_CODE_BYTES:
        message = f"the code takes more than {MAX_CODE_BYTES} bytes"
        raise ConfigError(Problem("command_too_long", "code", message, fix='files["module.py"] = …'))


def run_cell(
    wanted: Wanted, interpreter: Interpreter, ticket: Ticket, host: Host, marks: Marks, *, fresh: bool
) -> CodeResult:
    """Raises `Stopped`, and whatever a taker of output raises: the interpreter is of no use any more then.

    What became of it otherwise is told by the result.
    """
    exchange, started = interpreter.exchange, interpreter.started
    takers = takers_of(wanted)
    calls = Calls(
        wanted.tools,
        host,
        most=wanted.max_calls,
        default_timeout_s=wanted.tool_timeout_s,
        wake=exchange.wake,
    )
    order = Order(
        code=wanted.code,
        name=wanted.name,
        stream=wanted.on_stdout is not None,
        calls=calls,
        tools=tuple(wanted.tools),
        on_stdout=takers[0],
        on_stderr=takers[1],
        deadline=None if wanted.timeout_s is None else time.monotonic() + wanted.timeout_s,
        grace_s=wanted.grace_s,
        interrupt=lambda: ticket.on_loop(_interrupt(started)),
    )
    marks.mark("started")
    try:
        with ticket.talking(exchange):
            done = exchange.run(order)
        fields = _as_done(done)
    except TimedOut:
        ticket.on_loop(started.kill())
        fields = as_timed_out(wanted.timeout_s or 0.0, lost=True)
    except Lost as lost:
        fields = as_ended(lost, ticket.on_loop(_end_of(started, lost)), of="the interpreter")
        fields = {**fields, "state_lost": True, "error": fields.get("error") or _GONE}
    return concluded(fields, takers, marks, fresh=fresh, calls=calls.told())


def takers_of(wanted: Wanted) -> tuple[Taker, Taker]:
    most = wanted.max_output_bytes
    return Taker(wanted.on_stdout, most), Taker(wanted.on_stderr, most)


def concluded(
    fields: Mapping[str, Any],
    takers: tuple[Taker, Taker],
    marks: Marks,
    *,
    fresh: bool = False,
    calls: tuple[ToolCall, ...] = (),
) -> CodeResult:
    """The result of a run that has ended, with nothing more on its way."""
    for taker in takers:
        taker.end()
    marks.mark("done")
    stdout, stderr = (taker.capture for taker in takers)
    return CodeResult(
        **{**_NOTHING, **fields},
        stdout_bytes=stdout.getvalue(),
        stderr_bytes=stderr.getvalue(),
        stdout_dropped_bytes=stdout.dropped_bytes,
        stderr_dropped_bytes=stderr.dropped_bytes,
        fresh=fresh,
        calls=calls,
        output=OutputFiles(),
        timings=tuple(marks.pairs),
    )


async def _interrupt(started: Started) -> None:
    started.signal(signal.SIGINT)


async def _end_of(started: Started, lost: Lost) -> GuestEnded | None:
    """How it ended by itself; one that says what it must not is ended."""
    if lost.why:
        await started.kill()
    ended = await started.ended()
    if ended is None:
        await started.kill()
    return ended


def _as_done(done: Done) -> dict[str, Any]:
    return {
        "exit_code": TIMED_OUT_EXIT_CODE if done.interrupted else done.code,
        "outcome": Outcome.TIMED_OUT if done.interrupted else Outcome.EXITED,
        "value": done.value,
        "value_repr": done.value_repr,
        "error": None if done.error is None else CodeError(*done.error),
    }


def as_timed_out(seconds: float, *, lost: bool) -> dict[str, Any]:
    """`lost`: with the interpreter, and what that knew."""
    message = f"the code did not end within {seconds:g} s, and was ended"
    return {
        "exit_code": TIMED_OUT_EXIT_CODE,
        "outcome": Outcome.TIMED_OUT,
        "error": CodeError("TimedOut", message + (" with its interpreter" if lost else "")),
        "state_lost": lost,
    }


def as_ended(lost: Lost, ended: GuestEnded | None, *, of: str) -> dict[str, Any]:
    """How a program ended; None: with its machine."""
    if ended is None or lost.why:
        how = lost.why or "the machine has ended"
        return {**_KILLED, "error": CodeError("Lost", f"{of} was ended: {how}")}
    status = os.waitstatus_to_exitcode(ended.status)
    if status >= 0:
        return {"exit_code": status, "outcome": Outcome.EXITED}
    how = ", having used all the memory that it may" if ended.flags & EndedFlag.HIT_MEMORY else ""
    error = CodeError("Lost", f"{of} was ended by signal {-status}{how}")
    return {"exit_code": 128 - status, "outcome": Outcome.SIGNALLED, "error": error}


_NOTHING: Mapping[str, Any] = {"value": None, "value_repr": "", "error": None, "state_lost": False}
_KILLED: Mapping[str, Any] = {"exit_code": 137, "outcome": Outcome.KILLED}
_GONE = CodeError("Lost", "the interpreter has ended itself")
