"""One command in a sandbox that runs, launched in the place of a one-shot run.

So streams, deadlines and results are those of `mxc_ops.run`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import Future
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from typing import Any

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestError, GuestLost, GuestRefused
from backends.agent.process import GuestProcess
from backends.base import Handles, SandboxRequest, Streams
from backends.ended import Ended, Outcome, Usage
from backends.errors import LaunchFailed, MxcError, PolicyRefused, Problem
from backends.inside.agent_protocol import GuestCommand, Step
from backends.qemu.loop_running import LoopRunning
from backends.qemu.loop_thread import submit
from backends.virtual_machine import LANGUAGES, CommandKind, argument_vector
from backends.vm.heeded import unheeded
from backends.vm.terminal import follow_size, make_transparent, window_size
from mxc_ops.session.control import connect
from mxc_ops.session.entry import Entry
from mxc_ops.session.reaching import why_unreachable

__all__ = ["CommandPlan", "NoHandles", "SessionCommands"]

_CONNECT_S = 10.0
_START_S = 30.0
_FIRST_FREE = 3


class CommandPlan:
    """What there is to tell of a command in a sandbox whose own plan was enforced when it was started."""

    def __init__(self, entry: Entry, request: SandboxRequest) -> None:
        self.entry = entry
        self.request = request
        self.enforced = (("session", f"everything that {entry.id} was started with"),)
        self.warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        return {
            "backend": self.request.containment,
            "session": self.entry.id,
            "documentHash": self.entry.record.document_hash,
            "command": list(self.request.args or (self.request.shell,)),
            "cwd": self.request.cwd,
            "environment": [name for name, _ in self.request.environment.entries],
        }


class NoHandles:
    """A command brings no files."""

    def fileno(self, slot: int) -> int:
        raise KeyError(slot)

    def close(self) -> None:
        return


class SessionCommands:
    """Launches commands where a one-shot run's backend launches sandboxes."""

    def launch(
        self,
        plan: CommandPlan,
        handles: Handles,  # noqa: ARG002 - the sandbox has its files
        streams: Streams,
        secrets: tuple[tuple[str, str], ...] = (),
    ) -> LoopRunning:
        """Return when the command runs.

        Raises `LifecycleError` (``not_started``) when the sandbox has ended, `LaunchFailed`, `PolicyRefused`.
        """
        run = _Command(plan, streams, secrets)
        end = submit(run.whole())
        try:
            run.started.result()
        except BaseException:
            end.cancel()
            os.close(run.gone)
            raise
        return LoopRunning(run, end, run.gone)


class _Command:
    """Made on any thread; the rest happens on the loop of machines and agents."""

    def __init__(self, plan: CommandPlan, streams: Streams, secrets: tuple[tuple[str, str], ...]) -> None:
        self.started: Future[None] = Future()
        self.pid = 0
        self.wrapping_up = False
        self._plan = plan
        self._secrets = secrets
        self._process: GuestProcess | None = None
        self._killed = False
        self.gone = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        own = (
            fcntl(fd, F_DUPFD_CLOEXEC, _FIRST_FREE) for fd in (streams.stdin, streams.stdout, streams.stderr)
        )
        self._streams = Streams(*own, tty=streams.tty)
        self._told = fcntl(self.gone, F_DUPFD_CLOEXEC, _FIRST_FREE)

    async def whole(self) -> Ended:
        try:
            connection = await self._connect()
            try:
                return await self._run(connection)
            finally:
                await connection.close()
        except BaseException as error:
            if not self.started.done():
                self.started.set_exception(error)
            raise
        finally:
            for fd in (self._streams.stdin, self._streams.stdout, self._streams.stderr):
                os.close(fd)
            asyncio.get_running_loop().call_soon(self._tell)

    async def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.signal(number)

    async def expire(self, number: int) -> None:
        if self._process is not None:
            self._process.signal(number, last=True)

    async def kill(self) -> None:
        self._killed = True
        await self.signal(signal.SIGKILL)

    def _tell(self) -> None:
        os.eventfd_write(self._told, 1)
        os.close(self._told)

    async def _connect(self) -> GuestConnection:
        entry = self._plan.entry
        try:
            sock = connect(entry.record.run_folder, "agent")
        except OSError as error:
            raise await asyncio.to_thread(why_unreachable, entry) from error
        try:
            return await GuestConnection.open(sock, deadline_s=_CONNECT_S)
        except GuestError as error:
            raise _lost(entry, error) from error

    async def _run(self, connection: GuestConnection) -> Ended:
        streams = self._streams
        if streams.tty:
            make_transparent(streams.stdin)
        begun = time.monotonic()
        try:
            process = self._process = await connection.execute(
                self._command(),
                stdin=streams.stdin,
                stdout=streams.stdout,
                stderr=streams.stderr,
                deadline_s=_START_S,
            )
        except GuestRefused as error:
            raise _refused(self._plan.request, error) from error
        except GuestLost as error:
            raise _lost(self._plan.entry, error) from error
        except (GuestError, ValueError) as error:
            raise LaunchFailed(Problem("command_not_started", "", str(error))) from error
        self.pid = process.pid
        self.started.set_result(None)
        follower = asyncio.ensure_future(follow_size(streams.stdin, process)) if streams.tty else None
        try:
            ended = await process.wait()
        except GuestError as error:
            raise _lost(self._plan.entry, error) from error
        finally:
            if follower is not None:
                follower.cancel()
                with suppress(asyncio.CancelledError):
                    await follower
        return self._describe(ended, (time.monotonic() - begun) * 1000)

    def _command(self) -> GuestCommand:
        request = self._plan.request
        kind = _kind(request)
        if problems := list(unheeded(request, kind)):
            raise PolicyRefused(problems)
        return GuestCommand(
            args=argument_vector(kind, request.shell, request.args),
            env=request.environment.entries + self._secrets,
            cwd=request.cwd or "",
            tty=window_size(self._streams.stdin) if self._streams.tty else None,
            zygote=(request.shell or "") if kind in LANGUAGES else None,
        )

    def _describe(self, ended: Any, wall_ms: float) -> Ended:
        code = os.waitstatus_to_exitcode(ended.status)
        ended_by = -code if code < 0 else None
        usage = Usage(wall_ms, ended.user_us / 1000, ended.system_us / 1000, ended.max_rss_kib)
        outcome = Outcome.EXITED if ended_by is None else Outcome.SIGNALLED
        if self._killed and ended_by is not None:
            outcome = Outcome.KILLED
        return Ended(outcome, code if ended_by is None else 128 + ended_by, ended_by, usage, (), warnings=())


def _kind(request: SandboxRequest) -> CommandKind:
    if request.vm is not None and request.vm.command is not None:
        return request.vm.command
    return CommandKind.ARGS if request.args else CommandKind.SHELL


def _lost(entry: Entry, error: GuestError) -> LaunchFailed:
    message = f"{entry.id} ended, or was stopped, while a command ran in it: {error}"
    return LaunchFailed(Problem("sandbox_ended", "", message, fix=f"mxc-ops session inspect {entry.id}"))


def _refused(request: SandboxRequest, error: GuestRefused) -> MxcError:
    why = os.strerror(error.errno)
    if error.step is Step.CWD:
        pointer = request.pointers.get("cwd", "/process/cwd")
        message = f"the working directory {request.cwd!r} cannot be entered inside the sandbox: {why}"
        return PolicyRefused(
            Problem("cwd_unusable", pointer, message, expected="a directory that the sandbox has")
        )
    if error.step is Step.EXEC:
        field = "args" if request.args else "shell"
        pointer = request.pointers.get(field, "/mxcOps/args")
        name = argument_vector(_kind(request), request.shell, request.args)[0]
        message = f"{name!r} cannot be executed inside the sandbox: {why}"
        return LaunchFailed(Problem("program_not_found", pointer, message))
    return LaunchFailed(Problem(f"command_{error.step.name.lower()}", "", str(error)))
