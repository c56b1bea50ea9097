"""Restore a template: some ten milliseconds to a guest that has long been running (effectful, asyncio)."""

from __future__ import annotations

import os

from backends.qemu.admission import admit
from backends.qemu.confinement import Confinement
from backends.qemu.guest import Guest
from backends.qemu.memory_file import sparse_file
from backends.qemu.parts import open_parts
from backends.qemu.running_machine import RunningMachine
from backends.qemu.template import IGNORE_SHARED
from backends.qemu.template_plan import GRANTS_BYTES, TemplatePlan
from backends.qemu.template_store import StoredTemplate
from backends.qemu.timings import Timings

__all__ = ["restore"]

_AGENT_S = 15.0
_starting = 0


async def restore(
    plan: TemplatePlan,
    template: StoredTemplate,
    confinement: Confinement,
    timings: Timings,
    *,
    grants: int | None = None,
) -> Guest:
    """A clone that answers. It still is its template's double: `identify` it before anything else runs in it.

    Parameters
    ----------
    grants: the file behind the disk of read-only grants, of `GRANTS_BYTES`; without it that disk is a hole.

    Raises `LaunchFailed`, `BackendUnavailable` (the host is full).
    """
    global _starting  # noqa: PLW0603 - machines of this process that the host's memory figures do not show yet
    admit(plan.clone.memory_mib, whole=False, starting=_starting)
    _starting += 1
    try:
        return await _restore(plan, template, confinement, timings, grants)
    finally:
        _starting -= 1


async def _restore(
    plan: TemplatePlan,
    template: StoredTemplate,
    confinement: Confinement,
    timings: Timings,
    grants: int | None,
) -> Guest:
    hole = sparse_file("no-grants", GRANTS_BYTES) if grants is None else -1
    state = os.memfd_create("template-state", os.MFD_CLOEXEC)
    try:
        os.write(state, template.state)
        os.lseek(state, 0, os.SEEK_SET)
        with open_parts(plan.image, boots=False) as parts:
            disk = hole if grants is None else grants
            descriptors = {**parts.fds, "memory": template.memory, "grants": disk, "state": state}
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
        if hole >= 0:
            os.close(hole)
