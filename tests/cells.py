"""Interpreters that run cells, without a machine: ours as a process, and one that says what a test says."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from backends.frozen import frozen
from backends.inside.cells_source import python_program
from mxc_ops.hyperlight.calls import MOST_THREADS, Calls, Host
from mxc_ops.hyperlight.exchange import Done, Exchange, Order
from mxc_ops.hyperlight.frames import HEADER
from mxc_ops.hyperlight.loops import tool_loop
from mxc_ops.hyperlight.result import ToolCall
from mxc_ops.hyperlight.tools import Toolbox, make_tool
from mxc_ops.hyperlight.workers import Workers

PATIENCE_S = 30.0


@frozen
class Ran:
    done: Done
    stdout: str
    stderr: str
    calls: tuple[ToolCall, ...]
    pieces: int


class Talk:
    """Our end of an interpreter, with tools."""

    def __init__(self, sock: socket.socket, interrupt: Callable[[], object] = bool) -> None:
        self.exchange = Exchange(sock)
        self.toolbox = Toolbox()
        self._workers = Workers(MOST_THREADS)
        self._interrupt = interrupt
        self._number = 0

    def tool(self, function: Callable[..., Any], name: str = "", timeout_s: float | None = None) -> None:
        made = make_tool(name, function, timeout_s) if name else make_tool(function, None, timeout_s)
        self.toolbox.add(made)

    def run(
        self,
        code: str,
        *,
        timeout_s: float = PATIENCE_S,
        grace_s: float = 0.0,
        stream: bool = False,
        allow: Sequence[str] | None = None,
        most: int = 1000,
    ) -> Ran:
        self._number += 1
        tools = self.toolbox.allowed(allow)
        host = Host(self._workers, tool_loop, id(self))
        calls = Calls(tools, host, most=most, default_timeout_s=PATIENCE_S, wake=self.exchange.wake)
        out: list[bytes] = []
        err: list[bytes] = []
        name, until = f"<cell {self._number}>", time.monotonic() + timeout_s
        order = Order(
            code, name, stream, calls, tuple(tools), out.append, err.append, until, grace_s, self._interrupt
        )
        done = self.exchange.run(order)
        return Ran(done, b"".join(out).decode(), b"".join(err).decode(), calls.told(), len(out))

    def close(self) -> None:
        self.exchange.close()
        self._workers.close()


class PlainInterpreter(Talk):
    """Ours, as a process of this user: for tests of what it does, not of what holds it."""

    def __init__(self, argv: Sequence[str] = (sys.executable, "-c", python_program())) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                argv, stdin=theirs.fileno(), stdout=theirs.fileno(), env={"PATH": "/usr/bin:/bin"}
            )
        super().__init__(ours, lambda: self.process.send_signal(signal.SIGINT))
        self.exchange.greet(time.monotonic() + PATIENCE_S)

    def end(self) -> None:
        self.close()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()


def frame(kind: str, content: bytes | dict[str, Any]) -> bytes:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return HEADER.pack(len(data), ord(kind)) + data


def call(number: Any, name: Any = "add", args: Any = (), kwargs: Any = None) -> bytes:
    return frame("C", {"id": number, "name": name, "args": args, "kwargs": {} if kwargs is None else kwargs})


DONE = frame("D", {"code": 0})


class FakeInterpreter:
    """The other end of an exchange, in a test's hands. It runs on a thread of its own."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE_S)

    def send(self, *frames: bytes) -> None:
        for data in frames:
            self.sock.sendall(data)

    def next(self) -> tuple[str, Any]:
        """The host's next frame."""
        length, kind = HEADER.unpack(self._exactly(HEADER.size))
        content = self._exactly(length)
        return chr(kind), json.loads(content) if chr(kind) != "S" else content

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data


@contextmanager
def fake(act: Callable[[FakeInterpreter], object]) -> Generator[Talk]:
    """A talk with an interpreter that does `act`; it has hung up when that returns."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs, suppress(OSError, EOFError):
            act(FakeInterpreter(theirs))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    talk = Talk(ours)
    try:
        yield talk
    finally:
        talk.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
