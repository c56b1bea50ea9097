"""Everything in its place that a policy shows to a command in a guest (effectful, asyncio)."""

from __future__ import annotations

from backends.base import Handles, ObjectKind
from backends.errors import LaunchFailed
from backends.guest_files.archive import check_copies, put_content
from backends.guest_files.plan import GuestPut, Made
from backends.guest_files.snapshot import Snapshot
from backends.inside.agent_protocol import GuestFiles, GuestHide, GuestMount, MountFlag
from backends.qemu.guest import WithAgent
from backends.qemu.off_loop import off_loop, on_thread
from backends.qemu.timings import Timings
from backends.vm.failure import explain_full
from backends.vm.plan import VmPlan

__all__ = ["furnish"]


async def furnish(
    plan: VmPlan, guest: WithAgent, handles: Handles, snapshots: dict[int, Snapshot], timings: Timings
) -> None:
    """Make the working directory, mount and copy the grants, hide what is denied.

    Parameters
    ----------
    guest: what commands will run in, which is new.
    snapshots: get what was copied, for it to be copied back.

    Raises `LaunchFailed`, `PolicyRefused` for what does not fit.
    """
    await _make_working_dir(plan, guest, handles)
    files = plan.files
    flags = MountFlag.NO_SUID | MountFlag.NO_DEV
    for place in plan.limits.private:
        mount = GuestMount(place, "", "tmpfs", flags, plan.limits.tmp_mib << 20)
        await guest.ask(guest.agent.mount(mount))
    if files.writable:
        await on_thread(lambda: check_copies(files, handles))
    for step in files.guest_steps:
        if isinstance(step, GuestHide):
            await guest.ask(guest.agent.hide(step))
        elif isinstance(step, GuestMount):
            await guest.ask(guest.agent.mount(step))
        else:
            content = put_content(files, step, handles, snapshots)
            try:
                await guest.ask(guest.agent.put(step.files, off_loop(content)))
            except LaunchFailed as failure:
                raise explain_full(plan, step, failure) from failure.__cause__
    if files.guest_steps:
        timings.mark("filesIn")


async def _make_working_dir(plan: VmPlan, guest: WithAgent, handles: Handles) -> None:
    """What of it an image lacks; others' working directories are to be there."""
    if plan.container is not None and plan.container.image.missing_dirs:
        paths = (path.lstrip("/") for path in plan.container.image.missing_dirs)
        made = tuple(Made(path, ObjectKind.DIRECTORY, 0o755) for path in paths)
        content = put_content(plan.files, GuestPut(GuestFiles("/"), made=made), handles, {})
        await guest.ask(guest.agent.put(GuestFiles("/"), off_loop(content)))
