"""The process that owns one running sandbox: started by `start`, it ends with the sandbox.

It carries out the record's document like a one-shot run, but for the command; then it serves the sandbox's
folder of sockets: ``agent`` speaks the agent's protocol to any number of clients, ``control`` answers one
JSON line with another. Its hold on the lock that it was given is what tells that the sandbox lives.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from backends.agent.errors import GuestError, GuestLost, GuestRefused
from backends.agent.relay import Relay
from backends.errors import LaunchFailed, MxcError, Problem
from backends.inside.agent_protocol import GuestCommand
from backends.linux.peers import may_ask
from backends.qemu.off_loop import on_thread
from backends.sessions import Copied, KeepsSessions, SessionSandbox, Settled
from backends.told_errors import telling_error
from mxc_ops.policy.host_loopback import apart_from_ports
from mxc_ops.session.entry import sign
from mxc_ops.session.errors import unsupported_phase
from mxc_ops.session.event_log import EventLog, NetworkWatch
from mxc_ops.session.jobs import Jobs, command_of
from mxc_ops.session.ports import ORDERS as PORT_ORDERS
from mxc_ops.session.ports import Ports
from mxc_ops.session.run_folder import SUSPENDED
from mxc_ops.session.settling import settle, settled_told
from mxc_ops.session.supervisor_protocol import Assignment

if TYPE_CHECKING:
    from mxc_ops.session.supervisor_protocol import LeaseTerms
    from mxc_ops.session.transition import Transition

__all__ = ["main"]

_BACKLOG = 64
_SOCKETS = ("agent", "control", "copy")
_MOST_LINE = 1 << 20
_PULSE_S = 5.0
_T = TypeVar("_T")
_Enforced = tuple[tuple[str, str], ...]


def main(descriptors: Sequence[int]) -> None:
    """The first of the descriptors has the assignment, the others are its own."""
    with open(descriptors[0], "rb") as file:
        file.seek(0)
        assignment = Assignment.decode(file.read(), descriptors[1:])
    os.environ.update(assignment.environment or {})
    os.setsid()
    sign(assignment.alive)
    try:
        asyncio.run(_supervise(assignment))
    except MxcError as error:
        _report(assignment, {"error": telling_error(error)})
    except BaseException as error:
        problem = Problem("supervisor_failed", "", f"the sandbox's supervisor failed: {error!r}")
        _report(assignment, {"error": telling_error(LaunchFailed(problem))})
        raise


def _report(assignment: Assignment, message: dict[str, Any]) -> bool:
    """Whether there is somebody who waits for it."""
    try:
        os.write(assignment.report, json.dumps(message).encode() + b"\n")
        os.close(assignment.report)
    except OSError:
        return False
    return True


async def _supervise(assignment: Assignment) -> None:
    sandbox, imposed, enforced = await _start(assignment)
    watch, ending = None, None
    try:
        watch = NetworkWatch(sandbox.network, EventLog(assignment.events))
        relay = await sandbox.relay()
        relay.imposed = imposed
        ending = await _Supervisor(assignment, sandbox, relay, enforced).serve()
    finally:
        await sandbox.end()
        if watch is not None:
            watch.close()
    if ending is not None:
        os.close(assignment.alive)  # it has no supervisor any more
        settle(*ending)


async def _start(assignment: Assignment) -> tuple[SessionSandbox, GuestCommand, _Enforced]:
    from mxc_ops.one_shot import prepare
    from mxc_ops.sources import as_request

    with prepare(apart_from_ports(as_request(assignment.document.encode())), kept=True) as prepared:
        backend = prepared.backend
        if not isinstance(backend, KeepsSessions):
            raise unsupported_phase("start", prepared.request.containment)
        try:
            sandbox = await backend.start_session(prepared.plan, prepared.handles, assignment.copied)
        finally:
            for descriptor in () if assignment.copied is None else assignment.copied.fds.values():
                os.close(descriptor)
        return sandbox, backend.imposed(prepared.plan), prepared.plan.enforced


class _Supervisor:
    def __init__(
        self, assignment: Assignment, sandbox: SessionSandbox, relay: Relay, enforced: _Enforced
    ) -> None:
        self._assignment = assignment
        self._sandbox = sandbox
        self._relay = relay
        self._enforced = enforced
        self._stopping = asyncio.Event()
        self._one_copy = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()
        self._folder = -1
        self._jobs: Jobs | None = None
        self._settled = Settled()
        self._ports = Ports(relay, json.loads(assignment.document))

    async def serve(self) -> tuple[Transition, Settled] | None:
        """Until it is told to stop, the sandbox ends by itself, or its lease is over.

        Then the transition is returned that ends it, to be completed once nothing of it is left.
        """
        folder = self._assignment.folder
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._jobs = Jobs(self._relay, self._folder)
        servers = [_listen(self._folder, name) for name in _SOCKETS]
        try:
            self._loop.add_reader(servers[0].fileno(), self._accept, servers[0], self._relay.serve)
            self._loop.add_reader(servers[1].fileno(), self._accept, servers[1], self._control)
            self._loop.add_reader(servers[2].fileno(), self._accept, servers[2], self._copying)
            if not _report(self._assignment, {"running": os.getpid()}):
                return None  # whoever started it was killed, and the start with that
            return await self._until_over(self._jobs)
        finally:
            for server, name in zip(servers, _SOCKETS, strict=True):
                self._loop.remove_reader(server.fileno())
                server.close()
                with suppress(FileNotFoundError):
                    os.remove(name, dir_fd=self._folder)
            await self._ports.close()
            await self._jobs.close()
            self._relay.close()
            os.close(self._folder)

    async def _until_over(self, jobs: Jobs) -> tuple[Transition, Settled] | None:
        waits = [asyncio.ensure_future(self._stopping.wait()), asyncio.ensure_future(self._sandbox.gone())]
        lease = None
        if self._assignment.lease is not None:
            lease = asyncio.ensure_future(self._lease_over(self._assignment.lease, jobs))
        others = {self._relay.link.lost} if lease is None else {self._relay.link.lost, lease}
        try:
            await asyncio.wait({*waits, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits if lease is None else (*waits, lease):
                wait.cancel()
                with suppress(asyncio.CancelledError, MxcError):
                    await wait
        return None if lease is None or lease.cancelled() else (lease.result(), self._settled)

    async def _settle(self) -> Settled:
        """Raises `CopyBackFailed`; then commands may be run again."""
        async with self._one_copy:
            self._relay.refusing = "it is being stopped"
            try:
                return await self._sandbox.settle(self._relay)
            except BaseException:
                self._relay.refusing = ""
                self._no_longer_suspended()
                raise

    def _no_longer_suspended(self) -> None:
        with suppress(FileNotFoundError):
            os.remove(SUSPENDED, dir_fd=self._folder)

    async def _lease_over(self, terms: LeaseTerms, jobs: Jobs) -> Transition:
        from mxc_ops.session.lease import LeaseWatch

        relay = self._relay

        def in_use() -> bool:
            return relay.busy or relay.clients > jobs.clients + self._ports.clients

        watch = LeaseWatch(terms, self._assignment.alive, in_use)
        relay.when_idle = relay.when_left = watch.used
        try:
            moving = await watch.over()
            try:
                self._settled = await self._settle()
            except MxcError as error:  # an end that was agreed upon is not put off
                self._settled = Settled(warnings=(f"not copied back: {error}",))
            return moving
        finally:
            relay.when_idle = relay.when_left = bool

    def _accept(self, server: socket.socket, take: Any) -> None:
        with suppress(BlockingIOError, InterruptedError):
            sock, _ = server.accept()
            if may_ask(sock):
                take(sock)
            else:
                sock.close()

    def _control(self, sock: socket.socket) -> None:
        self._in_background(self._answer(sock))

    def _copying(self, sock: socket.socket) -> None:
        self._in_background(self._copy(sock))

    def _in_background(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _copy(self, sock: socket.socket) -> None:
        """Whoever connects there gets what copies start from: one JSON line, the descriptors with it."""
        with sock:
            try:
                copied = await self._copied()
            except MxcError as error:
                sock.sendall(json.dumps({"error": telling_error(error)}).encode() + b"\n")
                return
            try:
                line = json.dumps({"fds": list(copied.fds), "said": copied.said}).encode() + b"\n"
                socket.send_fds(sock, [line], list(copied.fds.values()))
            except OSError:
                return
            finally:
                for descriptor in copied.fds.values():
                    os.close(descriptor)

    async def _copied(self) -> Copied:
        async with self._standing_still():
            return await self._sandbox.copy(self._relay)

    @asynccontextmanager
    async def _standing_still(self) -> AsyncGenerator[None]:
        """For what needs that, one at a time."""
        async with self._one_copy:
            try:
                yield
            except (GuestLost, ProcessLookupError, FileNotFoundError) as error:
                message = f"it ended while it was to stand still: {error}"
                raise LaunchFailed(Problem("sandbox_ended", "", message)) from error
            except (GuestError, TimeoutError) as error:
                message = "the sandbox does not come to rest: its agent has something to do all the time"
                raise LaunchFailed(Problem("never_still", "", message), retryable=True) from error

    async def _answer(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=_MOST_LINE)
        try:
            with suppress(ConnectionError, ValueError):  # a line that is too long, or a client that has gone
                while line := await reader.readline():
                    working = self._in_background(self._tried(line))
                    while not (await asyncio.wait({working}, timeout=_PULSE_S))[0]:
                        writer.write(b'{"working": true}\n')
                        await writer.drain()
                    writer.write(json.dumps(working.result()).encode() + b"\n")
                    await writer.drain()
        finally:  # whoever waits for an answer must not wait for ever
            writer.close()

    async def _tried(self, line: bytes) -> dict[str, Any]:
        try:
            return await self._do(json.loads(line))
        except GuestRefused as error:
            return {"refused": {"step": int(error.step), "errno": error.errno, "message": str(error)}}
        except MxcError as error:
            return {"error": telling_error(error)}
        except (GuestError, OSError) as error:
            return {"failed": str(error)}
        except (ValueError, KeyError, TypeError) as error:
            return {"failed": f"that is no order: {error}"}

    async def _do(self, order: dict[str, Any]) -> dict[str, Any]:
        """Raises `ValueError`, `KeyError`, `TypeError` for what is no order."""
        assert self._jobs is not None  # made before anybody can ask
        name = order["do"]
        if name == "describe":
            told = {"pid": os.getpid(), "sandbox": self._sandbox.pid, "busy": self._relay.busy}
            enforced = [{"what": what, "mechanism": mechanism} for what, mechanism in self._enforced]
            return {**told, "enforced": enforced}
        if name == "stop":
            settled = Settled() if order.get("discard") else await self._settle()
            self._stopping.set()
            return settled_told(settled)
        if name == "suspend":
            async with self._standing_still():
                await self._sandbox.suspend(self._relay)
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                try:
                    os.close(os.open(SUSPENDED, flags, 0o600, dir_fd=self._folder))
                except BaseException:
                    await self._sandbox.resume(self._relay)
                    raise
            return {}
        if name == "resume":
            async with self._one_copy:
                await self._sandbox.resume(self._relay)
                self._no_longer_suspended()
            return {}
        if name == "run":
            return await self._jobs.start(command_of(order))
        if name == "ps":
            return {"jobs": self._jobs.listed()}
        if name == "wait":
            return await self._jobs.wait(int(order["job"]))
        if name == "kill":
            return self._jobs.kill(int(order["job"]), int(order["signal"]))
        if name == "network":
            return await self._change_network(order["document"])
        if name in PORT_ORDERS:
            return await self._ports.do(order)
        raise ValueError(f"no order is called {name!r}")

    async def _change_network(self, document: dict[str, Any]) -> dict[str, Any]:
        """Hold the network of another document of this sandbox. Raises `MxcError`; see `Network.replace`."""
        from mxc_ops.sources import as_request

        network = self._sandbox.network
        policy = apart_from_ports(as_request(json.dumps(document).encode())).network
        if network is not None:
            await on_thread(lambda: network.replace(policy))
        elif not policy.is_isolated:
            raise LaunchFailed(_no_network())
        return {}


def _no_network() -> Problem:
    message = "it was started without a network, and what is wanted takes one"
    return Problem("no_network", "/network", message, fix="stop it, and start it again")


def _listen(folder: int, name: str) -> socket.socket:
    """Named through the folder's descriptor: a socket's path may have 107 bytes, a folder's more."""
    with suppress(FileNotFoundError):
        os.remove(name, dir_fd=folder)
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"/proc/self/fd/{folder}/{name}")
    server.listen(_BACKLOG)
    server.setblocking(False)
    return server
