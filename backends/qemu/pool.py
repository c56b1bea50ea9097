"""Clones that wait, restored, warmed up and stopped, for a tenant each (effectful, asyncio).

A parked clone costs some 30 MiB and saves its tenant the restore and the first, slow run of everything. It
belongs to nobody: identity and policy come with the tenant, after it was taken out, and it never goes back.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import FIRST_COMPLETED
from collections import deque
from collections.abc import Callable

from backends.errors import LaunchFailed, MxcError, Problem
from backends.guest_files.tar_writer import END
from backends.inside.agent_protocol import GuestCommand, GuestFiles
from backends.inside.cells_source import python_program, rehearsal
from backends.qemu.clone import Clone, restore
from backends.qemu.confinement import Confinement
from backends.qemu.guest import Guest
from backends.qemu.open_templates import shared_template
from backends.qemu.per_loop import PerLoop
from backends.qemu.template import WARM_PATH, first_program, run_quietly
from backends.qemu.template_plan import TemplatePlan
from backends.qemu.template_store import TemplateStore
from backends.qemu.timings import Timings
from backends.virtual_machine import CommandKind

__all__ = ["WORKERS", "ClonePool"]

WORKERS = 2
"""So many clones are made at once in this process: more are no faster on any machine that was measured."""

_RETRY_S = 5.0
_REHEARSAL_S = 30.0
_workers = PerLoop(lambda: asyncio.Semaphore(WORKERS))


class ClonePool:
    """Belongs to the loop that it is used on. `close` it, else its machines end with this process."""

    def __init__(
        self, plan: TemplatePlan, confinement: Confinement, size: int, store: TemplateStore | None = None
    ) -> None:
        """`size` is how many clones are kept parked."""
        self.size = size
        self.problem: MxcError | None = None
        self._plan = plan
        self._confinement = confinement
        self._store = store
        self._parked: deque[Clone] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def parked(self) -> int:
        """How many are ready now."""
        return len(self._parked)

    async def fill(self) -> None:
        """Return when the pool is full. Raises what keeps it from being filled."""
        self._refill()
        while self._tasks and self.parked < self.size:
            await asyncio.wait(set(self._tasks), return_when=asyncio.FIRST_COMPLETED)
            if self.problem is not None:
                raise self.problem

    async def acquire(self, timings: Timings) -> Clone:
        """A clone for one tenant, running: a parked one, else one that is restored now.

        It has its template's identity until it is given its own. Raises as `clone.restore`.
        """
        while self._parked:
            clone = self._parked.popleft()
            self._refill()
            try:
                await clone.guest.machine.execute("cont")
            except LaunchFailed:  # it died while it was parked: the next one, then
                await clone.end()
                continue
            except BaseException:
                await clone.end()
                raise
            timings.mark("acquired")
            return clone
        template = await shared_template(self._plan, self._confinement, self._store)
        return await restore(self._plan, template, self._confinement, timings)

    async def close(self) -> None:
        """End everything that is parked or on its way there."""
        self._closed = True
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        while self._parked:
            await self._parked.popleft().end()

    def _refill(self) -> None:
        while not self._closed and self.parked + len(self._tasks) < self.size:
            task = asyncio.ensure_future(self._park_one())
            self._tasks.add(task)
            task.add_done_callback(self._finished(task))

    def _finished(self, task: asyncio.Task[None]) -> Callable[[asyncio.Task[None]], None]:
        def note(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = None if task.cancelled() else task.exception()
            self.problem = error if isinstance(error, MxcError) else None
            if error is not None and not self._closed:
                asyncio.get_running_loop().call_later(_RETRY_S, self._refill)

        return note

    async def _park_one(self) -> None:
        async with _workers.get():
            template = await shared_template(self._plan, self._confinement, self._store)
            clone = await restore(self._plan, template, self._confinement, Timings())
            try:
                await run_quietly(clone.guest, GuestCommand(("/bin/sh", "-c", "echo"), env=WARM_PATH))
                if program := first_program(self._plan.image):
                    await run_quietly(clone.guest, program)
                if self._plan.image.zygote == CommandKind.PYTHON.value:
                    await _rehearse_cells(clone.guest)
                await clone.guest.ask(clone.guest.agent.sync())
                await clone.guest.machine.execute("stop")
            except BaseException:
                await clone.end()
                raise
            self._parked.append(clone)


async def _rehearse_cells(guest: Guest) -> None:
    """Run a cell, as an interpreter that stays does, and put files: none."""
    cell, done = rehearsal()
    said = bytearray()
    ended = asyncio.Event()

    def listen(data: memoryview) -> None:
        said.extend(data)
        if said.endswith(done):
            ended.set()

    await guest.ask(guest.agent.put(GuestFiles("/tmp"), [END]))  # noqa: S108 - the guest's
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(cell)
        program = GuestCommand(("-c",), env=WARM_PATH, zygote=python_program())
        process = await guest.ask(
            guest.agent.execute(program, stdin=theirs.fileno(), stdout=listen, stderr=said.extend)
        )
        waiting = asyncio.ensure_future(ended.wait())
        await asyncio.wait({waiting, process.exited}, timeout=_REHEARSAL_S, return_when=FIRST_COMPLETED)
        waiting.cancel()
    await guest.ask(process.wait(deadline_s=_REHEARSAL_S))
    if not ended.is_set():
        words = said[-1000:].decode(errors="backslashreplace")
        raise LaunchFailed(Problem("warm_up_failed", "", f"the interpreter ran no cell; it said: {words}"))
