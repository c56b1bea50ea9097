"""Cells: an interpreter in a guest that runs one piece of Python source after the other in names that stay.

It is started by the zygote under a policy's restrictions, and talks with the host in frames, {length, kind}
and content, on what was its standard input and output at first. Code that it runs finds /dev/null and two
pipes there instead; what comes out of those is sent on, in order, and completely before a cell is said to be
done.

- From the host: ``X`` {code, name, stream, tools}: run a cell; ``A`` {id, value | error}: answer a call;
  ``S`` random bytes: this machine is a copy, draw other random numbers than its original.
- To the host: ``R`` {version}: ready; ``o``, ``e``: output; ``C`` {id, name, args, kwargs}: call a function
  of the host; ``D`` {code, value, repr, error}: the cell is done.

Between cells nothing is sent. Code in a cell may do whatever it likes to all this: the host trusts none of
it.

It runs in the guest's own Python, 3.9 or later, with the standard library only, and is imported by the zygote
before any program is known.
"""

from __future__ import annotations

import ast
import builtins
import fcntl
import json
import linecache
import os
import random
import resource
import select
import signal
import sys
import termios
import types
from _thread import allocate_lock, start_new_thread
from typing import Any, NoReturn

from backends.inside.cells_calls import Api, Channel, ToolError, ToolTimeout
from backends.inside.cells_telling import encoded, exit_code, shown, told

__all__ = ["serve"]

VERSION = 1
_PIECE = 60_000
_RUN, _SEED = ord("X"), ord("S")
_READY, _OUT, _ERR, _DONE = ord("R"), ord("o"), ord("e"), ord("D")
_HIGH = 200  # what code in cells opens gets the low numbers, as in any program
_OWN = 8  # more than these descriptors of ours
_COROUTINE = 0x80  # inspect.CO_COROUTINE, whose module is slow to import


class Outputs:
    """The pipes that take the places of standard output and error, and what is sent on of them."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._ends: list[tuple[int, int]] = []
        self._lock = allocate_lock()
        self._gate = allocate_lock()  # open while a cell runs
        self._gate.acquire()
        for place, kind in ((1, _OUT), (2, _ERR)):
            end, into = os.pipe()
            os.dup2(into, place)
            os.close(into)
            self._ends.append((_high(end), kind))
        self.streams = (sys.stdout, sys.stderr)

    def pump(self) -> None:
        """On a thread of its own: what comes while a cell runs."""
        waiting = select.poll()
        kinds = dict(self._ends)
        for end in kinds:
            waiting.register(end, select.POLLIN)
        while True:
            ready = waiting.poll()
            self._gate.acquire()
            try:
                with self._lock:
                    for end, _ in ready:
                        self._pass(end, kinds[end], min(_waiting(end), _PIECE))
            finally:
                self._gate.release()

    def begin(self, *, line_by_line: bool) -> None:
        stdout: Any = self.streams[0]
        try:
            if stdout.line_buffering != line_by_line:
                stdout.reconfigure(line_buffering=line_by_line)
        except ValueError:  # it was closed
            pass
        self._gate.release()

    def finish(self) -> None:
        """What was written until now is sent, and nothing more."""
        for stream in (sys.stdout, sys.stderr, *self.streams):
            try:
                stream.flush()
            except Exception:  # noqa: S112 - closed, or replaced by what code in a cell takes for a file
                continue
        self._gate.acquire()
        self.drain()

    def drain(self) -> None:
        with self._lock:
            for end, kind in self._ends:
                left = _waiting(end)
                while left > 0:
                    left -= self._pass(end, kind, min(left, _PIECE))

    def _pass(self, end: int, kind: int, count: int) -> int:
        if count:
            self._channel.send(kind, os.read(end, count))
        return count

    def leave(self) -> None:
        for end, _ in self._ends:
            os.close(end)


def _high(fd: int) -> int:
    """The same at a number that nobody gets by chance, as far as there are such."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    place = _HIGH if most < 0 else min(_HIGH, max(3, most - _OWN))
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, place)
    os.close(fd)
    return moved


def _waiting(end: int) -> int:
    return int.from_bytes(fcntl.ioctl(end, termios.FIONREAD, bytes(4)), sys.byteorder)


class Cells:
    """Runs cells in one namespace, that of ``__main__``."""

    def __init__(self, channel: Channel, outputs: Outputs) -> None:
        self._channel = channel
        self._outputs = outputs
        self._main = types.ModuleType("__main__")
        vars(self._main)["__builtins__"] = builtins
        sys.modules["__main__"] = self._main
        self._pid = os.getpid()
        self._loop: Any = None

    def interrupted(self, _signal: int, _frame: object) -> None:
        if self._channel.in_cell:
            raise KeyboardInterrupt

    def serve(self) -> NoReturn:
        while True:
            kind, content = self._channel.cells.get()
            if kind == _RUN:
                self._run(json.loads(content))
            elif kind == _SEED:
                _reseed(content)

    def _run(self, cell: dict[str, Any]) -> None:
        self._channel.tools = cell["tools"]
        self._outputs.begin(line_by_line=cell["stream"])
        try:
            self._channel.in_cell = True
            done = self._outcome(cell["code"], cell["name"])
        except KeyboardInterrupt as error:  # it came when all but the telling was done
            done: dict[str, Any] = {"code": 1, "error": told(error)}
        self._channel.in_cell = False
        if os.getpid() != self._pid:  # a fork that has come to the end of the cell, as of a program
            _end_fork(done["code"])
        self._channel.give_up()
        self._outputs.finish()
        self._channel.send(_DONE, encoded(done))

    def _outcome(self, code: str, name: str) -> dict[str, Any]:
        try:
            value = self._evaluate(code, name)
            return {"code": 0} if value is None else {"code": 0, **shown(value)}
        except SystemExit as exit_:
            return {"code": exit_code(exit_)}
        except BaseException as error:
            return {"code": 1, "error": told(error)}

    def _evaluate(self, code: str, name: str) -> Any:
        """The value of the last expression, if the cell ends with one."""
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile(code, name, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        if tree.body:
            self._execute(compile(tree, name, "exec", flags, dont_inherit=True))
        if last is None:
            return None
        return self._execute(compile(ast.Expression(last.value), name, "eval", flags, dont_inherit=True))

    def _execute(self, code: types.CodeType) -> Any:
        value = eval(code, vars(self._main))  # noqa: S307 - running it is what this is for
        if not code.co_flags & _COROUTINE:
            return value
        if self._loop is None:
            import asyncio

            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(value)


def _end_fork(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: S112 - as above; it is the end in any case
            continue
    os._exit(code)


def _reseed(seed: bytes) -> None:
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        try:
            numpy.random.seed(int.from_bytes(seed[:4], "little"))
        except Exception:
            return


def _watch(outputs: Outputs) -> int:
    """Have a process that sends what is left in the pipes should the interpreter end in the middle of a cell.

    It is nobody's child that waits for its children. The answer keeps it waiting for as long as it is open.
    """
    end, kept = os.pipe()
    child = os.fork()
    if child != 0:
        os.close(end)
        os.waitpid(child, 0)
        return _high(kept)
    if os.fork() != 0:
        os._exit(0)
    os.close(kept)
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for place in (0, 1, 2):
        os.close(place)
    os.read(end, 1)
    outputs.drain()
    os._exit(0)


def serve() -> NoReturn:
    """Take the streams over, and run cells until the host hangs up."""
    channel = Channel(_high(os.dup(0)), _high(os.dup(1)))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    outputs = Outputs(channel)
    cells = Cells(channel, outputs)
    watched = _watch(outputs)
    signal.signal(signal.SIGINT, cells.interrupted)
    for leave in (channel.leave, outputs.leave, lambda: os.close(watched)):
        os.register_at_fork(after_in_child=leave)
    api = Api(channel)
    for name, thing in (
        ("call_tool", api.call_tool),
        ("acall_tool", api.acall_tool),
        ("tools", api.tools),
        ("ToolError", ToolError),
        ("ToolTimeout", ToolTimeout),
    ):
        setattr(builtins, name, thing)
    start_new_thread(channel.listen, ())
    start_new_thread(outputs.pump, ())
    channel.send(_READY, json.dumps({"version": VERSION}).encode())
    cells.serve()
