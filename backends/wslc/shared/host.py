"""The utility host: the process that has a shared machine, and starts containers in it for their owners.

It runs nothing of anybody's itself: each order makes a container, whose agent is for the one who ordered it,
and which ends with that one. It ends with its machine, or when nobody has been there for a while.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from contextlib import suppress

from backends.agent.connection import STALL_S
from backends.agent.errors import GuestError, GuestRefused, GuestSilent
from backends.agent.identity import new_identity
from backends.agent.process import GuestProcess
from backends.errors import BackendUnavailable, LaunchFailed, MxcError, Problem
from backends.frozen import frozen, replace
from backends.inside.agent_protocol import GuestContainer
from backends.linux.peers import may_ask
from backends.qemu.clone import Clone, restore
from backends.qemu.template import open_template
from backends.qemu.template_plan import TemplatePlan
from backends.qemu.template_store import TemplateStore, default_store
from backends.qemu.timings import Timings
from backends.told_errors import telling_error
from backends.wslc.shared import place
from backends.wslc.shared.assignment import HostAssignment
from backends.wslc.shared.plan import ALONE, POINTER, SLOTS
from backends.wslc.shared.slots import Slots
from backends.wslc.shared.talk import GRANTS, ROOT, read_order, readable, receive, send

__all__ = ["main"]

_ORDER_S = 10.0


def main(number: int) -> None:
    """The process: the descriptor has the assignment. It is nobody's child, and in a session of its own."""
    with open(number, "rb") as file:
        assignment = HostAssignment.decode(file.read())
    if os.fork():
        os._exit(0)
    for ours in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ours, signal.SIG_IGN)
    os.chdir("/")
    os.environ.update(assignment.environment)
    report = _Report(assignment.report)
    try:
        asyncio.run(_keep(assignment, report))
    except MxcError as error:
        report.tell({"error": telling_error(error)})
    except BaseException as error:
        problem = Problem("utility_host_failed", "", f"the shared machine's process failed: {error!r}")
        report.tell({"error": telling_error(LaunchFailed(problem))})
        raise


class _Report:
    """To whoever started us: one message, the first."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def tell(self, message: dict[str, object]) -> None:
        if self._pipe >= 0:
            with suppress(OSError):  # nobody may wait for it any more
                os.write(self._pipe, json.dumps(message).encode() + b"\n")
            os.close(self._pipe)
            self._pipe = -1


async def _keep(assignment: HostAssignment, report: _Report) -> None:
    plan, confinement = assignment.template, assignment.confinement
    template = await open_template(plan, confinement, TemplateStore(default_store()))
    try:
        clone = await restore(plan, template, confinement, Timings())
    finally:
        template.close()
    try:
        await clone.guest.ask(clone.guest.agent.identify(new_identity()))
        slots = Slots(clone.guest.machine)
        await slots.open()
        host = _Host(clone, slots, plan, assignment.idle_s)
        server = place.listen(assignment.folder)
        try:
            report.tell({"running": os.getpid()})
            await host.serve(server)
        finally:
            server.close()
            await host.close()
    finally:
        await clone.end()
        place.remove(assignment.folder)


@frozen
class _Container:
    init: GuestProcess
    agent: socket.socket
    root: str
    grants: str


class _Host:
    def __init__(self, clone: Clone, slots: Slots, plan: TemplatePlan, idle_s: float) -> None:
        self._clone = clone
        self._slots = slots
        self._plan = plan
        self._idle_s = idle_s
        self._containers = 0
        self._tenants: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._idle: asyncio.TimerHandle | None = None

    async def serve(self, server: socket.socket) -> None:
        """Until nobody has been there for a while, or the machine has ended."""
        self._loop.add_reader(server.fileno(), self._accept, server)
        self._rest()
        gone = asyncio.ensure_future(self._clone.guest.machine.wait_gone())
        try:
            await asyncio.wait({gone, self._over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._loop.remove_reader(server.fileno())
            gone.cancel()

    async def close(self) -> None:
        """Hang up on everybody."""
        for task in tuple(self._tenants):
            task.cancel()
        if self._tenants:
            await asyncio.wait(set(self._tenants))

    def _rest(self) -> None:
        if not self._tenants:
            self._idle = self._loop.call_later(self._idle_s, self._end)

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def _accept(self, server: socket.socket) -> None:
        with suppress(BlockingIOError, InterruptedError):
            sock, _ = server.accept()
            if not may_ask(sock):
                sock.close()
                return
            sock.setblocking(False)
            if self._idle is not None:
                self._idle.cancel()
            task = self._loop.create_task(self._serve_one(sock))
            self._tenants.add(task)
            task.add_done_callback(self._has_left)

    def _has_left(self, task: asyncio.Task[None]) -> None:
        self._tenants.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._end()  # what has become of its disks nobody knows
        self._rest()

    async def _serve_one(self, sock: socket.socket) -> None:
        with sock:
            try:
                message, files = await receive(sock, _ORDER_S)
            except (TimeoutError, ValueError):
                return
            try:
                await self._tenancy(sock, *read_order(message, files))
            except ValueError as error:
                problem = Problem("shared_vm_order", POINTER, f"the shared machine refused an order: {error}")
                with suppress(OSError):
                    send(sock, {"error": telling_error(LaunchFailed(problem))})
            except OSError:  # its owner has gone
                return
            finally:
                for file in files:
                    os.close(file)

    async def _tenancy(self, sock: socket.socket, spec: GuestContainer, given: dict[str, int]) -> None:
        try:
            container = await self._contain(spec, given)
        except GuestRefused as refusal:
            subject, step = refusal.subject, int(refusal.step)
            send(sock, {"refused": {"step": step, "errno": refusal.errno, "subject": subject}})
        except MxcError as error:
            send(sock, {"error": telling_error(error)})
        except GuestError as error:
            failed = LaunchFailed(Problem("container_not_started", "", str(error)))
            send(sock, {"error": telling_error(failed)})
        except OSError as error:  # such as too many open files, here
            message = f"the shared machine's process: {error.strerror or error}"
            failed = LaunchFailed(Problem("container_not_started", "", message))
            send(sock, {"error": telling_error(failed)})
        else:
            await self._let_live(sock, container)

    async def _contain(self, spec: GuestContainer, given: dict[str, int]) -> _Container:
        if self._containers >= SLOTS:
            raise _full()
        self._containers += 1
        root = grants = ""
        ours, theirs = socket.socketpair()
        machine, agent = self._clone.guest.machine, self._clone.guest.agent
        try:
            root = await self._slots.plug_root(given[ROOT])
            grants = await self._slots.plug_grants(given[GRANTS]) if GRANTS in given else ""
            spec = replace(spec, root=self._plan.device(root))
            init = await machine.guard(agent.contain(spec, theirs))
        except GuestSilent:  # it may still come to be, on its disks: nobody else gets them
            ours.close()
            raise
        except BaseException:
            ours.close()
            await self._free(root, grants)
            raise
        finally:
            theirs.close()
        return _Container(init, ours, root, grants)

    async def _let_live(self, sock: socket.socket, container: _Container) -> None:
        try:
            with container.agent:
                told = {"grants": self._plan.device(container.grants) if container.grants else ""}
                pid = self._clone.guest.machine.qemu.pid
                send(sock, {**told, "pid": pid}, [container.agent.fileno()])
            left = asyncio.ensure_future(readable(sock.fileno(), None))
            await asyncio.wait({left, container.init.exited}, return_when=asyncio.FIRST_COMPLETED)
            left.cancel()
            if container.init.exited.done() and not self._clone.guest.machine.is_gone:
                with suppress(OSError):
                    send(sock, {"ended": "everything in the container was killed"})
        finally:
            if not self._clone.guest.machine.is_gone:
                container.init.signal(signal.SIGKILL)
                container.init.discard()
                # Its disks are free then. If it does not answer, the machine ends, and with it what is in it.
                await container.init.wait(deadline_s=STALL_S)
                await self._free(container.root, container.grants)

    async def _free(self, root: str, grants: str) -> None:
        if root:
            await self._slots.unplug_root(root)
        if grants:
            await self._slots.unplug_grants(grants)
        self._containers -= 1


def _full() -> BackendUnavailable:
    message = f"the shared machine has {SLOTS} containers, which is as many as there can be"
    fix = f"wait until one of them has ended, or {ALONE}"
    return BackendUnavailable(Problem("shared_vm_full", POINTER, message, fix=fix), retryable=True)
