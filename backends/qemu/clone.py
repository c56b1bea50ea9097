"""Restore a template: some ten milliseconds to a guest that has long been running (effectful, asyncio)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

from backends.agent.inherited import Conversation, inherit
from backends.errors import LaunchFailed, Problem
from backends.frozen import frozen, replace
from backends.qemu.admission import MIB, admit
from backends.qemu.confinement import Confinement
from backends.qemu.guest import Guest
from backends.qemu.machine import Machine, Part
from backends.qemu.memory_file import copy_data, sealed_copy, sparse_file
from backends.qemu.off_loop import on_thread
from backends.qemu.parts import hold_image, open_parts
from backends.qemu.running_machine import RunningMachine
from backends.qemu.saved_state import ignore_shared, saved_state
from backends.qemu.template_plan import TemplatePlan
from backends.qemu.template_store import StoredTemplate
from backends.qemu.timings import Timings

__all__ = ["Clone", "Link", "restore"]

_AGENT_S = 15.0
_POLL_S = 0.002
_NO_DISKS: Mapping[str, int] = {}
_starting = 0


@frozen
class Link:
    """A way out of a machine: its tap, and a pidfd of who judges what goes over it, the end of whom ends the
    machine, too. Both stay their owner's."""

    tap: int
    gate: int


class Clone:
    """A restored guest, the files behind the disks that it was given none for, its hold on its image.

    `memory` is the file of a memory of its own, -1 where it shares its template's. `end` it in every case.
    """

    def __init__(self, guest: Guest, holes: Mapping[str, int], image: int, memory: int = -1) -> None:
        """The descriptors are the clone's own from now on."""
        self.guest = guest
        self.memory = memory
        self._holes = dict(holes)
        self._image = image
        self._saved: bytes | None = None

    def fill(self, name: str, image: int) -> None:
        """Put an image on a disk that it was given no file for, and that the guest has not looked at yet."""
        size = os.fstat(self._holes[name]).st_size
        copy_data(image, self._holes[name])
        os.ftruncate(self._holes[name], size)

    async def freeze(self) -> StoredTemplate:
        """What copies of it, as it is now, start from; it stands still until `thaw`.

        With nothing on its way on the agent's channel. Memory that is not in a file of its own becomes part
        of the state, which is one of standing still then. Raises `LaunchFailed`.
        """
        own = self.memory >= 0
        if not own:  # what QEMU saves while the guest writes to it was seen to be torn
            await self.guest.machine.execute("stop")
        if self._saved is None:  # QEMU does it once for as long as it stands still, and nothing changes then
            self._saved = await saved_state(self.guest.machine, with_memory=not own)
        memory = await on_thread(lambda: sealed_copy(self.memory), drop=os.close) if own else -1
        return StoredTemplate(memory, self._saved)

    async def thaw(self) -> None:
        """Also when it was stopped by anybody else."""
        self._saved = None
        await self.guest.machine.execute("cont")

    async def end(self) -> None:
        await self.guest.end()
        _close(*self._holes.values(), self._image, self.memory)
        self._holes.clear()
        self._image = self.memory = -1


async def restore(
    plan: TemplatePlan,
    template: StoredTemplate,
    confinement: Confinement,
    timings: Timings,
    *,
    disks: Mapping[str, int] = _NO_DISKS,
    own_memory: bool = False,
    conversation: Conversation | None = None,
    stood: bool = False,
    link: Link | None = None,
) -> Clone:
    """A clone that answers. It still is its template's double: `identify` it before anything else runs in it.

    Parameters
    ----------
    disks: files for data disks, by name, which stay the caller's: each of its disk's size, and open for
        writing if that is. A disk without one is a hole until it is filled.
    own_memory: it gets a copy of the template's memory, made while QEMU starts, so that copies of it can be
        made quickly in turn; always when `template` has its memory in its state.
    conversation: of a copy, how far its original's agent and host had come.
    stood: the original stood still; its copy is told to go on.
    link: where its network card leads; None: nowhere.

    Raises `LaunchFailed`, `BackendUnavailable` (the host is full, the image was removed).
    """
    global _starting  # noqa: PLW0603 - machines of this process that the host's memory figures do not show yet
    admit(plan.clone.memory_mib, whole=False, starting=_starting)
    _starting += 1
    image = memory = -1
    holes: dict[str, int] = {}
    filled: asyncio.Task[None] | None = None
    own_memory = own_memory or template.memory < 0
    try:
        image = hold_image(plan.image)
        holes = _holes(plan, disks)
        machine = replace(plan.clone, tap=link is not None)
        if own_memory:
            memory = sparse_file("machine-memory", machine.memory_mib * MIB)
            machine = replace(machine, memory_shared=True)
            if template.memory >= 0:
                filled = asyncio.create_task(on_thread(lambda: copy_data(template.memory, memory)))
        fds = {"memory": memory if own_memory else template.memory, **disks, **holes}
        if link is not None:
            fds[Part.NETWORK.value] = link.tap
        owners = () if link is None else (link.gate,)
        running = await _restore(plan, machine, template, confinement, timings, fds, filled, owners)
        if stood:
            await _go_on(running)
        guest = await _connect(running, conversation)
        timings.mark("agentReady")
        return Clone(guest, holes, image, memory)
    except BaseException:
        _close(*holes.values(), image, memory)
        raise
    finally:
        _starting -= 1


def _holes(plan: TemplatePlan, given: Mapping[str, int]) -> dict[str, int]:
    """Files for the disks that are given none. Whatever it has, a guest goes on with its template's sizes."""
    sizes = {disk.name: disk.size_bytes for disk in plan.disks}
    for name, fd in given.items():
        if (size := os.fstat(fd).st_size) != sizes[name]:
            message = f"the file for the disk {name!r} has {size} bytes; the disk has {sizes[name]}"
            raise LaunchFailed(Problem("disk_size", "", message))
    holes: dict[str, int] = {}
    try:
        for name in sizes.keys() - given.keys():
            holes[name] = sparse_file(name, sizes[name])
    except BaseException:
        _close(*holes.values())
        raise
    return holes


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


async def _restore(
    plan: TemplatePlan,
    machine: Machine,
    template: StoredTemplate,
    confinement: Confinement,
    timings: Timings,
    fds: Mapping[str, int],
    filled: asyncio.Task[None] | None,
    owners: tuple[int, ...],
) -> RunningMachine:
    state = os.memfd_create("template-state", os.MFD_CLOEXEC)
    try:
        with open(state, "wb", closefd=False) as file:
            file.write(template.state)
        os.lseek(state, 0, os.SEEK_SET)
        with open_parts(plan.image, boots=False) as parts:
            descriptors = {**parts.fds, **fds, "state": state}
            running = await RunningMachine.start(machine, confinement, descriptors, timings, owners)
        try:
            timings.mark("qmpUp")
            if template.memory >= 0:
                await running.execute("migrate-set-capabilities", ignore_shared(True))
            if filled is not None:
                await filled
            await running.execute("migrate-incoming", {"uri": f"fd:{state}"})
            timings.mark("restored")
        except BaseException:
            await running.end()
            raise
        return running
    finally:
        if filled is not None:
            await asyncio.wait({filled})  # it writes to a file that is closed next, should this have failed
        os.close(state)


async def _go_on(running: RunningMachine) -> None:
    """Once its state is complete, which it would be in as it was saved: standing still."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _AGENT_S
    try:
        while (await running.execute("query-status"))["status"] == "inmigrate":
            if loop.time() > until:
                raise LaunchFailed(
                    Problem("restore_failed", "", "QEMU does not complete the machine's state")
                )
            await asyncio.sleep(_POLL_S)
        await running.execute("cont")
    except BaseException:
        await running.end()
        raise


async def _connect(running: RunningMachine, conversation: Conversation | None) -> Guest:
    try:
        if conversation is None:
            return await Guest.connect(running, deadline_s=_AGENT_S)
        guest = Guest(running, *inherit(running.agent, conversation))
        await guest.ask(guest.agent.ping(deadline_s=_AGENT_S))
        return guest
    except BaseException:
        await running.end()
        raise
