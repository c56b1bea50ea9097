"""A container in a shared machine, ordered from the machine's host, which is started if there is none.

Effectful, asyncio.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from backends import process
from backends.agent.connection import ANSWER_S, GuestConnection
from backends.agent.errors import GuestError, GuestLost, GuestRefused
from backends.errors import BackendUnavailable, LaunchFailed, MxcError, Problem
from backends.inside.agent_protocol import GuestContainer, GuestFailed, Step
from backends.inside.codec import spec_memfd
from backends.qemu.confinement import Confinement
from backends.qemu.template_plan import TemplatePlan
from backends.told_errors import told_error
from backends.wslc.shared import place
from backends.wslc.shared.assignment import HostAssignment
from backends.wslc.shared.plan import ALONE, POINTER
from backends.wslc.shared.talk import order, readable, receive, send

__all__ = ["IDLE_S", "Tenancy", "join"]

IDLE_S = 60.0
"""So long a machine waits for the next container, once the last one has ended."""

_JOIN_S = 180.0
_START_S = 120.0
_CONTAINER_S = 60.0
_POLL_S = 0.05
_END_S = 35.0
_GONE_S = 1.0
_HANDED_OVER = ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME")
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
# Isolated from the caller's variables and folder; where we, and what we need, are imported from it must know.
_BOOT = (
    "import sys; number, root, *others = sys.argv[1:]; sys.path.insert(0, root); sys.path += others;"
    " from backends.wslc.shared.host import main; main(int(number))"
)
_Answer = TypeVar("_Answer")


class Tenancy:
    """A container that is ours, with an agent in it; a `WithAgent`. `end` it in every case.

    `pid` is that of the machine's QEMU, `grants` the guest's name of the disk with the read-only grants.
    """

    def __init__(self, sock: socket.socket, agent: GuestConnection, pid: int, grants: str) -> None:
        """Use `join`."""
        self.agent = agent
        self.pid = pid
        self.grants = grants
        self._sock = sock
        self._gone = asyncio.ensure_future(_until_gone(sock))

    async def wait_gone(self) -> str:
        """Wait for the end of the container; answers why, if it was none of ours."""
        return await asyncio.shield(self._gone)

    def ended_error(self) -> MxcError:
        """The end of it, which nobody here wanted."""
        why = self._gone.result() if self._gone.done() else ""
        message = f"the container ended unexpectedly: {why or 'the machine that it shares has ended'}"
        return LaunchFailed(Problem("container_ended", "", message))

    async def guard(self, work: Awaitable[_Answer]) -> _Answer:
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise self.ended_error()
        finally:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    async def ask(self, work: Awaitable[_Answer]) -> _Answer:
        try:
            return await self.guard(work)
        except GuestError as error:
            if isinstance(error, GuestLost):  # the end of the container is then the one to tell
                await asyncio.wait({self._gone}, timeout=_GONE_S)
            if self._gone.done():
                raise self.ended_error() from error
            raise LaunchFailed(Problem("guest_failed", "", str(error))) from error

    async def end(self) -> None:
        """Returns once nothing of it is left."""
        await self.agent.close()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        await asyncio.wait({self._gone}, timeout=_END_S)
        self._gone.cancel()
        with suppress(asyncio.CancelledError):
            await self._gone
        self._sock.close()


async def join(
    key: str,
    template: TemplatePlan,
    confinement: Confinement,
    spec: GuestContainer,
    files: Mapping[str, int],
) -> Tenancy:
    """Have a container started in the machine of that key.

    Parameters
    ----------
    files: by the names of `talk`; they stay the caller's.

    Raises `GuestRefused` for an image that no container can be made of, `BackendUnavailable` for a machine
    that is full or a host that has no room for one, `LaunchFailed`.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _JOIN_S
    while loop.time() < until:
        folder = place.open_folder(key)
        try:
            if (sock := place.connect(folder)) is not None:
                if (made := await _ordered(sock, spec, files)) is not None:
                    return made
            elif (lock := place.hold(folder)) >= 0:
                try:
                    await _start(template, confinement, folder, lock)
                finally:
                    os.close(lock)
                continue
        finally:
            os.close(folder)
        await asyncio.sleep(_POLL_S)  # somebody else starts it, or it is about to end
    message = f"no container could be ordered in the shared machine {key} within {_JOIN_S:g} s"
    raise LaunchFailed(Problem("shared_vm_busy", POINTER, message, fix=ALONE), retryable=True)


async def _ordered(sock: socket.socket, spec: GuestContainer, files: Mapping[str, int]) -> Tenancy | None:
    """None when the machine ended instead of an answer."""
    try:
        answer, received = await _asked(sock, spec, files)
        if not answer:
            sock.close()
            return None
        if "error" in answer:
            raise told_error(answer["error"])
        if "refused" in answer:
            refused = answer["refused"]
            failed = GuestFailed(Step(refused["step"]), refused["errno"], refused["subject"])
            raise GuestRefused("CONTAINER", failed)
        if not received:
            message = "the agent of the container could not be handed over: too many open files?"
            raise LaunchFailed(Problem("container_not_started", "", message, fix="ulimit -n 4096"))
        agent = await GuestConnection.open(socket.socket(fileno=received[0]), deadline_s=ANSWER_S)
        return Tenancy(sock, agent, answer["pid"], answer["grants"])
    except BaseException:
        sock.close()
        raise


async def _asked(
    sock: socket.socket, spec: GuestContainer, files: Mapping[str, int]
) -> tuple[dict[str, Any], list[int]]:
    try:
        send(sock, order(spec, list(files)), list(files.values()))
        return await receive(sock, _CONTAINER_S)
    except ConnectionError:
        return {}, []
    except TimeoutError as error:
        message = f"the shared machine's process did not answer within {_CONTAINER_S:g} s"
        raise LaunchFailed(Problem("shared_vm_silent", POINTER, message), retryable=True) from error


async def _until_gone(sock: socket.socket) -> str:
    answer, _ = await receive(sock, None)
    return str(answer.get("ended", ""))


async def _start(template: TemplatePlan, confinement: Confinement, folder: int, lock: int) -> None:
    """Return when it can be asked. Raises what keeps it from running."""
    report, theirs = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    told = -1
    try:
        known = tuple((name, os.environ[name]) for name in _HANDED_OVER if name in os.environ)
        assignment = HostAssignment(template, confinement, IDLE_S, folder, lock, theirs, known)
        told = spec_memfd(assignment.encode())
        others = (path for path in sys.path if path.startswith("/"))
        argv = (sys.executable, "-I", "-c", _BOOT, str(told), _ROOT, *others)
        process.bury(process.spawn(argv, (null, null, null), (told, folder, lock, theirs)))
        os.close(theirs)
        theirs = -1
        _check(await _heard(report))
    except OSError as error:
        message = f"no process for a shared machine could be started: {error.strerror or error}"
        raise LaunchFailed(Problem("utility_host_lost", "", message), retryable=True) from error
    finally:
        for descriptor in (report, theirs, null, told):
            if descriptor >= 0:
                os.close(descriptor)


async def _heard(report: int) -> bytes:
    """The one line, or what there is of it when the process has gone."""
    heard = b""
    with suppress(TimeoutError):
        while not heard.endswith(b"\n"):
            await readable(report, _START_S)
            piece = os.read(report, 65536)
            if not piece:
                break
            heard += piece
    return heard


def _check(heard: bytes) -> None:
    try:
        message = json.loads(heard)
    except ValueError:
        why = "the shared machine's process ended, or said nothing in time, before the machine ran"
        raise BackendUnavailable(Problem("utility_host_lost", "", why), retryable=True) from None
    if "error" in message:
        raise told_error(message["error"])
