"""Make a template: boot, warm up, take a snapshot of all but the memory, store it (effectful, asyncio).

The memory itself is a file that the booted guest writes through to, so the snapshot (``x-ignore-shared``)
holds the devices only (qemu: migration.rst; lab §4).
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from backends.agent.container import start_container
from backends.errors import LaunchFailed, Problem
from backends.guest_files.disk import build_disk
from backends.guest_files.plan import FilesPlan
from backends.inside.agent_protocol import GuestCommand, GuestContainer
from backends.linux.open_objects import OpenObjects
from backends.qemu.admission import MIB, admit
from backends.qemu.confinement import Confinement
from backends.qemu.guest import Guest, boot
from backends.qemu.memory_file import sparse_file
from backends.qemu.off_loop import on_thread
from backends.qemu.opened_ahead import take_opened
from backends.qemu.parts import open_parts
from backends.qemu.saved_state import save_state
from backends.qemu.template_plan import DataDisk, TemplatePlan
from backends.qemu.template_store import StoredTemplate, TemplateCorrupt, TemplateStore
from backends.virtual_machine import LANGUAGES, CommandKind, Image

__all__ = ["WARM_PATH", "first_program", "open_template", "run_quietly"]

BOOT_S = 30.0
_BOOT_TRIES = 2
_WARM_UP_S = 60.0
_MOST_WORDS = 1000
WARM_PATH = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)


async def open_template(
    plan: TemplatePlan, confinement: Confinement, store: TemplateStore, *, to_copy: bool = False
) -> StoredTemplate:
    """The template of `plan`: from the store, or made now (some seconds); the caller closes it.

    `to_copy` is as of `TemplateStore.open`.

    A stored one that turns out corrupt is thrown away and made anew. Raises `LaunchFailed` and
    `BackendUnavailable` (the host is full).
    """
    with suppress(TemplateCorrupt):
        found = None if to_copy else take_opened(store, plan.key)
        if (found := found or store.open(plan.key, to_copy=to_copy)) is not None:
            return found
    try:
        async with store.building():
            try:
                if (found := store.open(plan.key, to_copy=to_copy)) is not None:
                    return found
            except TemplateCorrupt:
                store.remove(plan.key)
            await _make(plan, confinement, store)
            made = store.open(plan.key, to_copy=to_copy)
    except OSError as error:
        raise _not_stored(store, error) from error
    except TemplateCorrupt as error:
        raise LaunchFailed(Problem("template_corrupt", "", str(error)), retryable=True) from error
    if made is None:
        raise LaunchFailed(
            Problem("template_vanished", "", "the template was removed at once"), retryable=True
        )
    return made


async def _make(plan: TemplatePlan, confinement: Confinement, store: TemplateStore) -> None:
    admit(plan.booted.memory_mib, whole=True)
    memory = sparse_file("template-memory", plan.booted.memory_mib * MIB)
    state = os.memfd_create("template-state", os.MFD_CLOEXEC)
    holes: dict[str, int] = {}
    try:
        for disk in plan.disks:
            holes[disk.name] = _placeholder(disk)
        with open_parts(plan.image, boots=True) as parts:
            descriptors = {**parts.fds, "memory": memory, **holes}
            guest = await boot(plan.booted, confinement, descriptors, deadline_s=BOOT_S, tries=_BOOT_TRIES)
            try:
                await _warm_up(guest, plan)
                await save_state(guest.machine, state)
            finally:
                await guest.end()
        await on_thread(lambda: store.publish(plan.key, memory, state))
    finally:
        for fd in (memory, state, *holes.values()):
            os.close(fd)


async def _warm_up(guest: Guest, plan: TemplatePlan) -> None:
    """What every run does first is done once before the snapshot: translated, cached, read from disk."""
    for _ in range(2):
        await run_quietly(guest, GuestCommand(("/bin/sh", "-c", "echo"), env=WARM_PATH))
        if program := first_program(plan.image):
            await run_quietly(guest, program)
    if plan.image.warm_up:
        await run_quietly(guest, GuestCommand(("/bin/sh", "-c", plan.image.warm_up), env=WARM_PATH))
    for name in [disk.name for disk in plan.disks if disk.for_container][:1] * 2:
        empty = GuestContainer(plan.device(name), "sandbox")
        container = await guest.ask(start_container(guest.agent, empty))
        await guest.ask(container.end())
    await guest.ask(guest.agent.sync())


def _placeholder(disk: DataDisk) -> int:
    """A hole, or an empty file system; the caller closes it."""
    if not disk.for_container:
        return sparse_file(f"no-{disk.name}", disk.size_bytes)
    return build_disk(FilesPlan(), OpenObjects(), size_bytes=disk.size_bytes).fd


def first_program(image: Image) -> GuestCommand | None:
    """Source that the image's waiting interpreter is tried with; None without one."""
    if not image.zygote:
        return None
    language = LANGUAGES[CommandKind(image.zygote)]
    return GuestCommand(language.words, env=WARM_PATH, zygote=language.line)


async def run_quietly(guest: Guest, command: GuestCommand) -> None:
    """Run something of ours in a guest; its output is thrown away.

    Raises `LaunchFailed` when it fails, with its last words.
    """
    words = bytearray()

    def note(data: bytes | memoryview) -> None:
        words.extend(data)
        del words[:-_MOST_WORDS]

    process = await guest.ask(
        guest.agent.execute(command, stdin=None, stdout=_ignore, stderr=note, deadline_s=_WARM_UP_S)
    )
    ended = await guest.ask(process.wait(deadline_s=_WARM_UP_S))
    if ended.status != 0:
        said = words.decode("utf-8", "backslashreplace").strip()
        message = f"the warm-up {command.args} ended with {os.waitstatus_to_exitcode(ended.status)}: {said}"
        raise LaunchFailed(Problem("warm_up_failed", "", message))


def _ignore(_: bytes | memoryview) -> None:
    pass


def _not_stored(store: TemplateStore, error: OSError) -> LaunchFailed:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = f"make room where {store.folder} lies: a template takes up to the guest's memory" if full else ""
    message = f"the template could not be stored in {store.folder}: {error.strerror or error}"
    return LaunchFailed(Problem("template_not_stored", "", message, fix=fix), retryable=full)
