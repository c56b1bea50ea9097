"""A container in a shared machine that outlives a command (effectful, asyncio)."""

from __future__ import annotations

from backends.agent.relay import Relay
from backends.base import Handles
from backends.errors import LifecycleError, Problem
from backends.linux.duplicates import Duplicates
from backends.qemu.timings import Timings
from backends.sessions import Copied, Settled
from backends.vm.plan import VmPlan
from backends.wslc.shared.furnished import FurnishedContainer
from backends.wslc.shared.plan import ALONE, POINTER

__all__ = ["SharedSandbox", "start_shared"]


class SharedSandbox:
    """A `backends.sessions.SessionSandbox`; belongs to the loop that it was made on."""

    network = None

    def __init__(self, plan: VmPlan, container: FurnishedContainer, handles: Duplicates) -> None:
        """Use `start_shared`."""
        self._plan = plan
        self._container = container
        self._handles = handles

    @property
    def pid(self) -> int:
        return self._container.pid

    async def relay(self) -> Relay:
        agent = self._container.guest.agent
        return Relay(agent.link, agent.welcome)

    async def gone(self) -> str:
        guest = self._container.guest
        await guest.wait_gone()
        return str(guest.ended_error())

    async def suspend(self, relay: Relay) -> None:
        raise _refused("suspended", relay)

    async def resume(self, relay: Relay) -> None:
        """It never stands still."""

    async def copy(self, relay: Relay) -> Copied:
        raise _refused("copied", relay)

    async def settle(self, relay: Relay) -> Settled:  # noqa: ARG002 - it is never suspended
        if self._plan.files.writable:
            await self._container.bring_back()
        return Settled(tuple(self._container.conflicts), tuple(self._container.warnings))

    async def end(self) -> None:
        await self._container.end()
        self._handles.close()


def _refused(what: str, _relay: Relay | None = None) -> LifecycleError:
    message = f"a container in a shared machine cannot be {what}: its neighbours would be, too"
    return LifecycleError("unsupported_phase", Problem("shared_vm_alone", POINTER, message, fix=ALONE))


async def start_shared(plan: VmPlan, handles: Handles, copied: Copied | None) -> SharedSandbox:
    """Raises what a run raises before its command starts; nothing is left then."""
    if copied is not None:
        raise _refused("made from a copy")
    own = Duplicates(handles, (grant.slot for grant in (*plan.files.read_only, *plan.files.writable)))
    container = FurnishedContainer(plan, own, Timings())
    try:
        await container.start()
    except BaseException:
        await container.end()
        own.close()
        raise
    return SharedSandbox(plan, container, own)
