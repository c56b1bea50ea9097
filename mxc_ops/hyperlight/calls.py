"""One run's calls of host functions: let through, made, timed, and answered once."""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, cast

from backends.frozen import frozen
from mxc_ops.hyperlight.frames import Breach, as_json
from mxc_ops.hyperlight.result import ToolCall
from mxc_ops.hyperlight.tools import BadArguments, Tool
from mxc_ops.hyperlight.workers import Workers

__all__ = ["MOST_AT_ONCE", "MOST_THREADS", "Calls", "Host", "serving"]

MOST_AT_ONCE = 64
MOST_THREADS = 2 * MOST_AT_ONCE
"""So many because one has answered before it is free again, and what took too long still has its own."""

_MOST_WORDS = 2000
_MOST_SHOWN = 1000
_LAST_ID = 1 << 53

serving: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar("serving", default=frozenset())
"""Whose calls the code that asks is serving, by the id of the object."""


@frozen
class Host:
    """What serves calls: threads, the loop for coroutine functions; and whose calls they are."""

    workers: Workers
    loop: Callable[[], asyncio.AbstractEventLoop]
    owner: int


class _Call:
    def __init__(
        self, number: int, tool: Tool | None, name: str, arguments: str, budget_s: float | None
    ) -> None:
        self.number = number
        self.tool = tool
        self.name = name
        self.arguments = arguments
        self.begun = time.monotonic()
        self.ended = 0.0
        self.until = None if budget_s is None else self.begun + budget_s
        self.error = ""
        self.future: Future[Any] | None = None

    def told(self) -> ToolCall:
        ms = ((self.ended or time.monotonic()) - self.begun) * 1000
        return ToolCall(self.name, self.arguments, self.error, round(ms, 3))


class Calls:
    """Belongs to the thread of its run; functions are called on others, which hand over what they answer.

    `wake` is called from those when there is something to `collect`.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool],
        host: Host,
        *,
        most: int,
        default_timeout_s: float | None,
        wake: Callable[[], object],
    ) -> None:
        self._tools = tools
        self._host = host
        self._most = most
        self._default_timeout_s = default_timeout_s
        self._wake = wake
        self._context = contextvars.copy_context()
        self._open: dict[int, _Call] = {}
        self._all: list[_Call] = []
        self._done: deque[tuple[_Call, bytes, str]] = deque()
        self._refused = 0

    @property
    def is_full(self) -> bool:
        return len(self._open) + len(self._done) >= MOST_AT_ONCE

    @property
    def next_deadline(self) -> float | None:
        """On the monotonic clock."""
        return min((call.until for call in self._open.values() if call.until is not None), default=None)

    def told(self) -> tuple[ToolCall, ...]:
        return tuple(call.told() for call in self._all)

    def take(self, message: dict[str, Any]) -> None:
        """A call came. Raises `Breach` for what is none."""
        number, name, args, kwargs = (message.get(key) for key in ("id", "name", "args", "kwargs"))
        if type(number) is not int or not 0 < number < _LAST_ID or number in self._open:
            raise Breach("it sent a call without a number of its own")
        if not isinstance(name, str) or not isinstance(args, list) or not isinstance(kwargs, dict):
            raise Breach("it sent a call that is none")
        tool = self._tools.get(name)
        timeout_s = tool.timeout_s if tool and tool.timeout_s is not None else self._default_timeout_s
        call = _Call(number, tool, name[:_MOST_SHOWN], _shown([*args, kwargs] if args else kwargs), timeout_s)
        self._open[number] = call
        if len(self._all) >= self._most:
            self._refuse(call, "CallBudget", f"a run may call {self._most} times, and has")
            return
        self._all.append(call)
        if tool is None:
            self._refuse(call, "UnknownTool", f"no tool that may be called here is named {call.name!r}")
        elif tool.is_async:
            self._begin_async(call, tool, cast("list[Any]", args), cast("dict[str, Any]", kwargs))
        else:
            self._begin(call, tool, cast("list[Any]", args), cast("dict[str, Any]", kwargs))

    def collect(self) -> list[bytes]:
        """The answers that are due, as content of frames; also those to calls whose time is up."""
        answers: list[bytes] = []
        while self._done:
            call, content, error = self._done.popleft()
            if self._open.pop(call.number, None) is call:  # else its time was up
                call.error, call.ended = error, time.monotonic()
                answers.append(content)
        now = time.monotonic()
        late = [call for call in self._open.values() if call.until is not None and call.until <= now]
        for call in late:
            del self._open[call.number]
            call.error, call.ended = "Timeout", now
            if call.future is not None:
                call.future.cancel()
            seconds = now - call.begun
            answers.append(_failure(call, "Timeout", f"no answer within {seconds:.3g} s", kind="timeout"))
        return answers

    def close(self) -> None:
        """The run has ended: nobody waits for an answer any more. Coroutines are cancelled."""
        for call in self._open.values():
            call.error, call.ended = call.error or "RunEnded", time.monotonic()
            if call.future is not None:
                call.future.cancel()
        self._open.clear()

    def _refuse(self, call: _Call, error: str, message: str) -> None:
        self._done.append((call, _failure(call, error, message), error))

    def _begin(self, call: _Call, tool: Tool, args: list[Any], kwargs: dict[str, Any]) -> None:
        context = self._context.copy()

        def work() -> None:
            try:
                value = context.run(self._made, tool, args, kwargs)
                self._answer(call, value)
            except BaseException as error:
                self._fail(call, error)

        if not self._host.workers.start(work):
            self._refuse(call, "Busy", "all threads for functions of the host are at work")

    def _made(self, tool: Tool, args: list[Any], kwargs: dict[str, Any]) -> Any:
        serving.set(serving.get() | {self._host.owner})
        checked, named = tool.check(args, kwargs)
        return tool.function(*checked, **named)

    def _begin_async(self, call: _Call, tool: Tool, args: list[Any], kwargs: dict[str, Any]) -> None:
        async def work() -> None:
            try:
                serving.set(serving.get() | {self._host.owner})
                checked, named = tool.check(args, kwargs)
                self._answer(call, await tool.function(*checked, **named))
            except asyncio.CancelledError as error:
                self._fail(call, error)
                raise
            except BaseException as error:
                self._fail(call, error)

        call.future = asyncio.run_coroutine_threadsafe(work(), self._host.loop())

    # On other threads

    def _answer(self, call: _Call, value: Any) -> None:
        try:
            content = as_json({"id": call.number, "value": value})
        except ValueError as error:
            message = f"the result is not JSON: {error}"
            self._hand_over(call, _failure(call, "BadResult", message), "BadResult")
        else:
            self._hand_over(call, content, "")

    def _fail(self, call: _Call, error: BaseException) -> None:
        if isinstance(error, BadArguments):
            self._hand_over(call, _failure(call, "BadArguments", str(error)), "BadArguments")
            return
        name = type(error).__name__
        self._hand_over(call, _failure(call, name, _words(error)), name)

    def _hand_over(self, call: _Call, content: bytes, error: str) -> None:
        self._done.append((call, content, error))
        self._wake()


def _shown(arguments: Any) -> str:
    """Its beginning as JSON, however much of it there is."""
    text = ""
    for part in json.JSONEncoder().iterencode(arguments):
        text += part[:_MOST_SHOWN]
        if len(text) >= _MOST_SHOWN:
            break
    return text[:_MOST_SHOWN]


def _words(error: BaseException) -> str:
    """What it says, without the host's paths where those are apart from it."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    with suppress(Exception):
        return str(error)
    return ""


def _failure(call: _Call, error: str, message: str, kind: str = "error") -> bytes:
    told = {"kind": kind, "type": error[:200], "message": message[:_MOST_WORDS]}
    return as_json({"id": call.number, "error": told})
