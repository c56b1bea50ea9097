"""`Hyperlight`: code of agents in a machine that stays between runs, for Python."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from backends.errors import ConfigError, LifecycleError, PolicyRefused, Problem
from backends.frozen import replace
from mxc_ops.channels import DEFAULT_CAP_BYTES
from mxc_ops.hyperlight import settings as asked
from mxc_ops.hyperlight.calls import MOST_THREADS, Host
from mxc_ops.hyperlight.exchange import Stopped
from mxc_ops.hyperlight.files import Files
from mxc_ops.hyperlight.kept import KeptMachine
from mxc_ops.hyperlight.loops import called_on, on_own_thread, tool_loop
from mxc_ops.hyperlight.programs import run_program
from mxc_ops.hyperlight.result import CodeResult
from mxc_ops.hyperlight.running import Marks, OnText, Wanted, check_code, run_cell
from mxc_ops.hyperlight.serving import CALLBACK, TOOL, refuse_own, served
from mxc_ops.hyperlight.snapshot import HyperlightSnapshot
from mxc_ops.hyperlight.tools import Toolbox, make_tool
from mxc_ops.hyperlight.turns import Ticket, Turns
from mxc_ops.hyperlight.workers import Workers

if TYPE_CHECKING:
    from typing import Self

    from pydantic import BaseModel

    from mxc_ops.policy_builder import Policy

__all__ = ["Hyperlight"]


class Hyperlight:
    """Runs code in a virtual machine of its own, whose interpreter and files stay from run to run.

    ::

        with Hyperlight() as h:
            h.register_tool("add", lambda a, b: a + b)
            print(h.run("print(call_tool('add', a=1, b=2))").stdout)

    Methods may be called from any thread; runs are one after the other. The machine is started when it is
    first needed, and ends with the block, `close`, or this process.
    """

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        runtime: str = "python",
        tools: Iterable[Callable[..., Any]] = (),
        tool_timeout_s: float | None = 60.0,
        max_calls: int = 1000,
        output_dir: str | os.PathLike[str] | None = None,
        output_at: str = "/output",
        output_mib: int = 64,
        max_output_bytes: int = DEFAULT_CAP_BYTES,
        **fields: Any,
    ) -> None:
        """Only checks; nothing is started.

        Parameters
        ----------
        policy: what the code may do, `fields` changes of it, or all of it, as ``timeout_s=5``; see `Policy`.
            Its `timeout_s` and `grace_s` are each run's.
        runtime: ``python``, or ``node`` for JavaScript; with ``bash`` and ``python-shell`` each run is a
            script, or a line, of its own.
        tools: functions for `register_tool`.
        tool_timeout_s: what a call of a tool may take, unless the tool says something else; None: any time.
        max_calls: of tools, in one run.
        output_dir: a directory of the host that gets what is in `output_at` after each run; None: none.
        output_at: a folder of the code's own in the guest, and its working directory unless `policy` names
            one.
        output_mib: what it may hold.
        max_output_bytes: how much of each captured stream of a run is kept.

        Raises `ConfigError`, `PolicyRefused`.
        """
        self._settings = asked.settings(
            policy,
            fields,
            runtime=runtime,
            output_dir=output_dir,
            output_at=output_at,
            output_mib=output_mib,
            tool_timeout_s=tool_timeout_s,
            max_calls=max_calls,
            max_output_bytes=max_output_bytes,
        )
        self._kept = KeptMachine(self._settings)
        self._toolbox = Toolbox()
        self._turns = Turns()
        self._workers = Workers(MOST_THREADS)
        self._numbers = itertools.count(1)
        self._owner = os.getpid()
        for tool in tools:
            self.register_tool(tool)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Dropped without an end: its machine must not outlive it. A fork's copy ends nothing, and with the
        # process everything ends by itself.
        if os.getpid() == getattr(self, "_owner", -1) and not sys.is_finalizing() and self._kept.is_made:
            # On any thread, also one that this would wait for: so on none of those.
            threading.Thread(target=_abandon, args=(self._kept, self._workers), daemon=True).start()

    def register_tool(
        self,
        name_or_tool: str | Callable[..., Any],
        callback: Callable[..., Any] | None = None,
        *,
        timeout_s: float | None = None,
        schema: type[BaseModel] | None = None,
    ) -> Callable[..., Any]:
        """Let code call a function of this process: ``call_tool("name", …)``, or ``tools.name(…)``.

        Arguments are JSON, of the types that the function's annotations say, or `schema`, a model of
        pydantic's whose fields are passed by name; its result must be JSON. What it raises reaches the code
        as ``ToolError``, by its type's name and message. Plain functions run on threads of this process,
        several at once; coroutine functions on the loop of `arun`, or one that all tools share.

        Parameters
        ----------
        name_or_tool: its name for the code, or the function alone, which has one.
        timeout_s: instead of `tool_timeout_s`. The code gets ``ToolTimeout`` then; a coroutine is cancelled,
            a plain function keeps its thread until it returns, and its result is dropped.

        Returns the function, so it serves as a decorator. Raises `ConfigError`.
        """
        if not self._settings.has_cells:
            message = f"code of {self._settings.runtime} cannot call functions of the host"
            raise ConfigError(Problem("no_tools", "runtime", message, expected="runtime python or node"))
        tool = make_tool(name_or_tool, callback, timeout_s, schema)
        self._toolbox.add(tool)
        return tool.function

    def start(self) -> None:
        """Start the machine and its interpreter now. Raises what `mxc_ops.run` raises before a command."""
        with self._turn() as ticket:
            self._kept.machine(ticket)
            if self._settings.has_cells:
                self._kept.interpreter(ticket)

    def run(
        self,
        code: str,
        *,
        timeout_s: float | None = None,
        allow: Iterable[str] | None = None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
    ) -> CodeResult:
        """Run a piece of code where the one before has left everything, and wait for it.

        Parameters
        ----------
        timeout_s: instead of the policy's. When it is over, the code gets a ``KeyboardInterrupt`` and
            `grace_s` of the policy; what has not ended then is ended with its interpreter. Without a grace
            that happens at once.
        allow: the tools that may be called, by name; None: all.
        on_stdout, on_stderr: called in this thread with each piece of text, which is not kept then.

        Of what the code does nothing is raised: see `CodeResult`. After `state_lost` the next run starts
        another interpreter in the same machine, whose files are as they were. Raises `ConfigError` (also in a
        tool, or a callback, that this object's own run has called), `LifecycleError` once it is closed,
        `LaunchFailed` when there is no machine any more (``machine_lost``: `restart`, or `restore`). What a
        callback raises, and KeyboardInterrupt, end the interpreter first.
        """
        out, err = served(id(self), on_stdout), served(id(self), on_stderr)
        return self._run(self._turns.ticket(), code, timeout_s, allow, out, err, tool_loop)

    async def arun(
        self,
        code: str,
        *,
        timeout_s: float | None = None,
        allow: Iterable[str] | None = None,
        on_stdout: OnText | None = None,
        on_stderr: OnText | None = None,
    ) -> CodeResult:
        """The same without blocking the event loop, on which callbacks and coroutine functions are called.

        Cancelling ends the interpreter and waits for that.
        """
        loop = asyncio.get_running_loop()
        ticket = self._turns.ticket()

        def work() -> CodeResult:
            out, err = (called_on(loop, served(id(self), each)) for each in (on_stdout, on_stderr))
            return self._run(ticket, code, timeout_s, allow, out, err, lambda: loop)

        return await on_own_thread(work, stop=ticket.stop)

    def snapshot(self) -> HyperlightSnapshot:
        """The whole state as it is now: names, files, processes. `close` it when it is not needed any more.

        Raises `PolicyRefused` for a policy with read-write grants, whose changes a copy could not bring back,
        and `LaunchFailed`.
        """
        if self._settings.policy.read_write:
            message = "copies of read-write grants in a restored machine could not be brought back"
            raise PolicyRefused(
                Problem("not_copied_back", "read_write", message, fix="output=, or files.get, instead")
            )
        with self._turn() as ticket:
            return HyperlightSnapshot(self._settings, self._kept.template, self._kept.copy(ticket))

    def restore(self, snapshot: HyperlightSnapshot) -> None:
        """Go on where that was taken, in a machine of its own; any number of times, and by any object of the
        same policy and runtime.

        What has happened here since is gone; tools and the host's files stay. Random numbers are drawn anew,
        the clock is right. Raises `ConfigError` for a snapshot of something else or one that was closed, and
        `LaunchFailed`: then there is no machine (`restart`).
        """
        kept = self._kept
        with self._turn() as ticket, snapshot.held(self._settings, kept.template) as copy:
            kept.restore(ticket, copy)

    def restart(self) -> None:
        """Begin anew with an empty machine."""
        with self._turn() as ticket:
            self._kept.end()
            self._kept.machine(ticket)

    @property
    def files(self) -> Files:
        """The machine's files; see `Files`."""
        return Files(self._ready, self._kept.connect, self._settings.cwd)

    def output_path(self) -> str | None:
        """The host's directory for output, None without one: as of Hyperlight's own package."""
        return self._settings.output_dir or None

    def close(self) -> None:
        """End the machine, and whatever runs in it. Idempotent.

        Read-write grants are brought back first; raises `CopyBackFailed` when that fails, and the machine is
        gone all the same. A tool may close the object whose code has called it, which ends that run; a
        callback for output would wait for itself: `ConfigError`.
        """
        refuse_own(id(self), CALLBACK)
        with self._turns.last() as ticket:
            if ticket is None:
                return
            try:
                self._kept.bring_back(ticket)
            finally:
                self._kept.close()
                self._workers.close()

    # In our turn

    @contextmanager
    def _turn(self, ticket: Ticket | None = None) -> Generator[Ticket]:
        refuse_own(id(self), TOOL, CALLBACK)
        if os.getpid() != self._owner:
            message = "it is of the process that made it, and this is a fork"
            raise LifecycleError("not_started", Problem("forked", "", message, fix="make another one here"))
        try:
            with self._turns.take(ticket) as taken:
                yield taken
        except Stopped:
            raise self._turns.why_stopped() from None

    def _ready(self) -> None:
        """For files: there is a machine, or was one."""
        if not self._kept.was_started:
            with self._turn() as ticket:
                self._kept.machine(ticket)

    def _run(
        self,
        ticket: Ticket,
        code: str,
        timeout_s: float | None,
        allow: Iterable[str] | None,
        on_stdout: OnText | None,
        on_stderr: OnText | None,
        loop: Callable[[], asyncio.AbstractEventLoop],
    ) -> CodeResult:
        check_code(code)
        asked.check_time("timeout_s", timeout_s)
        settings = self._settings
        wanted = Wanted(
            code=code,
            name=f"<cell {next(self._numbers)}>",
            tools=self._toolbox.allowed(allow),
            timeout_s=settings.policy.timeout_s if timeout_s is None else timeout_s,
            grace_s=settings.policy.grace_s,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            max_calls=settings.max_calls,
            tool_timeout_s=settings.tool_timeout_s,
            max_output_bytes=settings.max_output_bytes,
            begun=time.monotonic(),
        )
        with self._turn(ticket):
            return self._run_now(wanted, ticket, Host(self._workers, loop, id(self)))

    def _run_now(self, wanted: Wanted, ticket: Ticket, host: Host) -> CodeResult:
        marks = Marks(wanted.begun)
        kept = self._kept
        if not self._settings.has_cells:
            result = run_program(wanted, kept, ticket, marks)
        else:
            interpreter, fresh = kept.interpreter(ticket)
            marks.mark("ready")
            try:
                result = run_cell(wanted, interpreter, ticket, host, marks, fresh=fresh)
            except BaseException:
                kept.drop_interpreter()
                raise
            if result.state_lost:
                kept.forget_interpreter()
        if not self._settings.output_dir or kept.is_lost:
            return result
        brought = kept.bring_output(ticket)
        marks.mark("output")
        return replace(result, output=brought, timings=tuple(marks.pairs))


def _abandon(kept: KeptMachine, workers: Workers) -> None:
    """Of an object that nobody has any more, and nobody has closed."""
    with suppress(Exception):
        kept.close()
    workers.close()
