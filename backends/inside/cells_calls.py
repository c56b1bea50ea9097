"""How code in cells calls functions of the host: frames out, answers in. For `backends.inside.cells`.

It runs in the guest's own Python, 3.9 or later, with the standard library only.
"""

from __future__ import annotations

import json
import os
import queue
import struct
from _thread import allocate_lock
from collections.abc import Callable
from typing import Any

__all__ = ["CALL", "HEADER", "MAX_MESSAGE", "Api", "Channel", "ToolError", "ToolTimeout"]

MAX_MESSAGE = 4 << 20
HEADER = struct.Struct("<IB")
ANSWER, CALL = ord("A"), ord("C")

Waiter = Callable[[Any, Any], object]


class ToolError(Exception):
    """A function of the host could not be called, or failed: `tool`, `type`, `message` say what and how."""

    def __init__(self, tool: str, kind: str, message: str) -> None:
        super().__init__(f"{tool}: {kind}: {message}")
        self.tool = tool
        self.type = kind
        self.message = message


class ToolTimeout(ToolError, TimeoutError):
    """It took too long; whether it goes on at the host is not known here."""


ToolError.__module__ = ToolTimeout.__module__ = "builtins"  # where code in cells finds them


class Channel:
    """Frames to the host, from any thread; what comes from there is handed out by a thread of its own."""

    def __init__(self, source: int, sink: int) -> None:
        self.cells: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self.source, self.sink = source, sink
        self.calls: dict[int, Waiter] = {}
        self.in_cell = False
        self.tools: list[str] = []
        self._lock = allocate_lock()
        self._last_call = 0

    def send(self, kind: int, content: bytes) -> None:
        data = memoryview(HEADER.pack(len(content), kind) + content)
        with self._lock:
            while data:
                data = data[os.write(self.sink, data) :]

    def listen(self) -> None:
        """Until the host hangs up, which ends the interpreter."""
        while True:
            length, kind = HEADER.unpack(self._exactly(HEADER.size))
            content = self._exactly(length)
            if kind == ANSWER:
                answer = json.loads(content)
                waiter = self.calls.pop(answer["id"], None)
                if waiter is not None:
                    waiter(answer.get("value"), answer.get("error"))
            else:
                self.cells.put((kind, content))

    def _exactly(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            part = os.read(self.source, count)
            if not part:
                os._exit(0)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], waiter: Waiter) -> int:
        """Send a call; `waiter` gets (value, error) on another thread. Raises `ToolError`."""
        if not self.in_cell:
            raise ToolError(name, "NoRun", "functions of the host can be called while a cell runs only")
        with self._lock:
            self._last_call += 1
            number = self._last_call
        try:
            message = {"id": number, "name": name, "args": args, "kwargs": kwargs}
            content = json.dumps(message, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ToolError(name, "TypeError", f"the arguments are not JSON: {error}") from None
        if len(content) > MAX_MESSAGE:
            raise ToolError(name, "ValueError", f"the arguments take more than {MAX_MESSAGE} bytes")
        self.calls[number] = waiter
        self.send(CALL, content)
        return number

    def give_up(self) -> None:
        """No answer comes any more to what was not answered yet."""
        for number in list(self.calls):
            waiter = self.calls.pop(number, None)
            if waiter is not None:
                waiter(None, {"kind": "error", "type": "RunEnded", "message": "the cell has ended"})

    def leave(self) -> None:
        """In a fork of the interpreter: it is not the one that the host talks with."""
        os.close(self.source)
        os.close(self.sink)
        self.source = self.sink = -1
        self.in_cell = False
        self.calls = {}


def _raised(name: str, error: dict[str, str]) -> ToolError:
    kind = ToolTimeout if error["kind"] == "timeout" else ToolError
    return kind(name, error["type"], error["message"])


class Api:
    """What code in cells finds as builtins."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.tools = Tools(self)

    def call_tool(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the host, and wait: its result. Raises `ToolError`, `ToolTimeout`."""
        done = allocate_lock()
        done.acquire()
        answers: list[tuple[Any, Any]] = []

        def take(value: Any, error: Any) -> None:
            answers.append((value, error))
            done.release()

        number = self._channel.call(name, args, kwargs, take)
        try:
            done.acquire()
        except BaseException:
            self._channel.calls.pop(number, None)
            raise
        value, error = answers[0]
        if error is not None:
            raise _raised(name, error)
        return value

    async def acall_tool(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """The same without blocking the event loop; any number may be awaited at once."""
        import asyncio

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: Any) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(_raised(name, error))
            else:
                future.set_result(value)

        number = self._channel.call(
            name, args, kwargs, lambda value, error: loop.call_soon_threadsafe(settle, value, error)
        )
        try:
            return await future
        finally:
            self._channel.calls.pop(number, None)

    def names(self) -> list[str]:
        return list(self._channel.tools)


class Tools:
    """``tools.add(1, b=2)`` is ``call_tool("add", 1, b=2)``."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def __dir__(self) -> list[str]:
        return self._api.names()

    def __repr__(self) -> str:
        return f"<tools: {', '.join(self._api.names()) or 'none'}>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self._api.names():
            known = ", ".join(self._api.names()) or "none"
            raise AttributeError(f"no tool is called {name!r}; there are: {known}")

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._api.call_tool(name, *args, **kwargs)

        call.__name__ = call.__qualname__ = name
        return call
