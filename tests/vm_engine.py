"""The engine of virtual machines in a test's hands: a template, made once for all tests, and its clones."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pytest

from backends.agent.identity import new_identity
from backends.base import SandboxRequest
from backends.errors import MxcError
from backends.inside.agent_protocol import GuestCommand, GuestEnded
from backends.qemu.choice import QemuProgram
from backends.qemu.clone import Clone, restore
from backends.qemu.host_values import observe_host_values
from backends.qemu.template import WARM_PATH, open_template
from backends.qemu.template_plan import GRANTS, DataDisk, plan_template
from backends.qemu.template_store import StoredTemplate, TemplateStore
from backends.qemu.timings import Timings
from backends.virtual_machine import Image, VirtualMachine
from mxc_ops.one_shot import prepare
from tests.images import image

Answer = TypeVar("Answer")
PATIENCE_S = 90.0


def drive(work: Coroutine[Any, Any, Answer], patience_s: float = PATIENCE_S) -> Answer:
    """Run a coroutine on a loop of its own, with an end."""

    async def bounded() -> Answer:
        async with asyncio.timeout(patience_s):
            return await work

    return asyncio.run(bounded())


class Engine:
    """Plan and confinement as a run of `image` has them, and a store with its template.

    `data`: other disks than such a run has.
    """

    def __init__(self, image: Image, store: Path, data: tuple[DataDisk, ...] = (GRANTS,)) -> None:
        self.image = image
        self.store = TemplateStore(str(store))
        request = SandboxRequest("vm", shell="true", vm=VirtualMachine(image.name, image))
        with prepare(request) as prepared:
            plan = prepared.plan.template
            self.confinement = prepared.plan.confinement
        self.plan = plan_template(
            image,
            QemuProgram(plan.clone.qemu, plan.qemu_build),
            observe_host_values(),
            kind=plan.clone.kind,
            accelerator=plan.clone.accelerator,
            memory_mib=plan.clone.memory_mib,
            cpus=plan.clone.cpus,
            data=data,
        )
        self._template: StoredTemplate | None = None

    async def template(self) -> StoredTemplate:
        """Made when it is first asked for; open until `close`."""
        if self._template is None:
            self._template = await open_template(self.plan, self.confinement, self.store)
        return self._template

    @asynccontextmanager
    async def clone(
        self, *, identified: bool = True, disks: Mapping[str, int] = MappingProxyType({})
    ) -> AsyncGenerator[Clone]:
        clone = await restore(self.plan, await self.template(), self.confinement, Timings(), disks=disks)
        try:
            if identified:
                await clone.guest.ask(clone.guest.agent.identify(new_identity()))
            yield clone
        finally:
            await clone.end()

    async def works(self) -> None:
        """A new clone of the same template does what it should."""
        async with self.clone() as clone:
            assert await said(clone, "echo works") == "works\n"

    def close(self) -> None:
        if self._template is not None:
            self._template.close()
            self._template = None


@contextmanager
def opened_engine(folder: Path, name: str = "base") -> Generator[Engine]:
    """An engine whose templates are kept in `folder`, where the next one finds them."""
    folder.mkdir(mode=0o700, exist_ok=True)
    engine = Engine(image(name), folder)
    try:
        yield engine
    finally:
        engine.close()


async def said(clone: Clone, line: str, *, privileged: bool = False) -> str:
    """What a shell line prints, which must succeed."""
    ended, text = await executed(clone, line, privileged=privileged)
    assert ended.status == 0, text
    return text


async def executed(clone: Clone, line: str, *, privileged: bool = False) -> tuple[GuestEnded, str]:
    """How a shell line ends, and what it prints."""
    output = bytearray()
    user = (0, 0) if privileged else (1000, 1000)
    process = await clone.guest.ask(
        clone.guest.agent.execute(
            GuestCommand(("/bin/sh", "-c", line), env=WARM_PATH, user=user, privileged=privileged),
            stdin=None,
            stdout=output.extend,
            stderr=output.extend,
        )
    )
    ended = await clone.guest.ask(process.wait())
    return ended, output.decode(errors="replace")


def code_of(caught: pytest.ExceptionInfo[MxcError]) -> str:
    return caught.value.problems[0].code


def qemu_of(clone: Clone) -> int:
    """The process of QEMU itself, inside its confinement."""
    return qemu_below(clone.guest.machine.qemu.pid)


def qemu_below(pid: int) -> int:
    (found,) = (child for child in descendants(pid) if is_qemu(child))
    return found


def descendants(pid: int) -> Iterator[int]:
    """A process and everything below it."""
    yield pid
    for task in _entries(f"/proc/{pid}/task"):
        with suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from descendants(int(child))


def is_qemu(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system")
    return False


def is_gone(pid: int) -> bool:
    """Ended, even if nobody has asked after it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def kill(pid: int, number: int) -> None:
    """By a handle, as what is killed may be gone, and its number somebody else's."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def _entries(folder: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(folder)  # noqa: PTH208 - names, of a folder that may vanish
    return []
