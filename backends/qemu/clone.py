"""Restore a template: some ten milliseconds to a guest that has long been running (effectful, asyncio)."""

from __future__ import annotations

import os

from backends.qemu.admission import admit
from backends.qemu.confinement import Confinement
from backends.qemu.guest import Guest
from backends.qemu.memory_file import copy_data, sparse_file
from backends.qemu.parts import hold_image, open_parts
from backends.qemu.running_machine import RunningMachine
from backends.qemu.template import IGNORE_SHARED
from backends.qemu.template_plan import GRANTS_BYTES, TemplatePlan
from backends.qemu.template_store import StoredTemplate
from backends.qemu.timings import Timings

__all__ = ["Clone", "restore"]

_AGENT_S = 15.0
_starting = 0


class Clone:
    """A restored guest, the file behind its disk of read-only grants, its hold on its image.

    `end` it in every case.
    """

    def __init__(self, guest: Guest, grants: int, image: int) -> None:
        """The descriptors are the clone's own from now on; `grants` is -1 when that is somebody else's."""
        self.guest = guest
        self._grants = grants
        self._image = image

    def fill_grants(self, image: int) -> None:
        """Put an image on the disk of read-only grants, which the guest has not looked at yet."""
        copy_data(image, self._grants)
        os.ftruncate(self._grants, GRANTS_BYTES)

    async def end(self) -> None:
        await self.guest.end()
        _close(self._grants, self._image)
        self._grants = self._image = -1


async def restore(
    plan: TemplatePlan,
    template: StoredTemplate,
    confinement: Confinement,
    timings: Timings,
    *,
    grants: int | None = None,
) -> Clone:
    """A clone that answers. It still is its template's double: `identify` it before anything else runs in it.

    Parameters
    ----------
    grants: a file of `GRANTS_BYTES` for the disk of read-only grants, which stays the caller's; without one,
        that disk is a hole until it is filled.

    Raises `LaunchFailed`, `BackendUnavailable` (the host is full, the image was removed).
    """
    global _starting  # noqa: PLW0603 - machines of this process that the host's memory figures do not show yet
    admit(plan.clone.memory_mib, whole=False, starting=_starting)
    _starting += 1
    own = image = -1
    try:
        image = hold_image(plan.image)
        own = sparse_file("grants", GRANTS_BYTES) if grants is None else -1
        disk = own if grants is None else grants
        return Clone(await _restore(plan, template, confinement, timings, disk), own, image)
    except BaseException:
        _close(own, image)
        raise
    finally:
        _starting -= 1


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


async def _restore(
    plan: TemplatePlan, template: StoredTemplate, confinement: Confinement, timings: Timings, grants: int
) -> Guest:
    state = os.memfd_create("template-state", os.MFD_CLOEXEC)
    try:
        os.write(state, template.state)
        os.lseek(state, 0, os.SEEK_SET)
        with open_parts(plan.image, boots=False) as parts:
            descriptors = {**parts.fds, "memory": template.memory, "grants": grants, "state": state}
            machine = await RunningMachine.start(plan.clone, confinement, descriptors, timings)
        try:
            timings.mark("qmpUp")
            await machine.execute("migrate-set-capabilities", IGNORE_SHARED)
            await machine.execute("migrate-incoming", {"uri": f"fd:{state}"})
            timings.mark("restored")
            guest = await Guest.connect(machine, deadline_s=_AGENT_S)
            timings.mark("agentReady")
            return guest
        except BaseException:
            await machine.end()
            raise
    finally:
        os.close(state)
