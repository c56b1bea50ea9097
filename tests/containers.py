"""Containers in a utility VM, in a test's hands: images made of busybox, and one machine for many tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from backends.agent.connection import GuestConnection
from backends.agent.container import Container, start_container
from backends.agent.inherited import Conversation
from backends.agent.process import GuestProcess
from backends.frozen import frozen, replace
from backends.inside.agent_protocol import EndedFlag, GuestCommand, GuestContainer
from backends.qemu.clone import Clone, restore
from backends.qemu.template_plan import DataDisk
from backends.qemu.template_store import StoredTemplate
from backends.qemu.timings import Timings
from tests.images import image
from tests.vm_engine import Engine

Answer = TypeVar("Answer")
IMAGE_BYTES = 4 << 20
PATIENCE_S = 60.0
PATH = (("PATH", "/bin"),)
OWN_DEVICES = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero".split()  # noqa: SIM905
_ANSWER_S = 30.0


@frozen
class Said:
    """What became of a command in a container."""

    status: int
    out: str
    err: str
    flags: EndedFlag


def busybox_tree(folder: Path) -> Path:
    """A root file system of busybox and little else, as images of no distribution have it."""
    for name in ("bin", "etc", "home", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    busybox = shutil.which("busybox")
    assert busybox is not None, "apt-get install --yes busybox-static"
    shutil.copy(busybox, folder / "bin/busybox")
    listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
    for name in listed.stdout.split():
        if name != "busybox":
            (folder / "bin" / name).symlink_to("busybox")
    return folder


def debian_archive(folder: Path) -> Path:
    """Debian with Python, as a tar file in `folder`."""
    root, archive = folder / "root", folder / "python.tar"
    subprocess.run(["fsck.erofs", f"--extract={root}", "--preserve", image("python").rootfs], check=True)
    subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
    shutil.rmtree(root)
    return archive


def pack(tree: Path, target: Path) -> Path:
    """An image of the tree, of `IMAGE_BYTES`."""
    subprocess.run(["mkfs.erofs", target, tree], check=True, capture_output=True)
    os.truncate(target, IMAGE_BYTES)
    return target


def ext4(target: Path, size_bytes: int) -> Path:
    """An empty disk that a container may write to."""
    with target.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", target], check=True)
    return target


class Utility:
    """A clone of the image ``utility``, with the disks that it was given, on a loop of its own.

    The loop runs only while `run` does.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, engine: Engine, clone: Clone, disks: Mapping[str, int]
    ) -> None:
        self.engine = engine
        self.clone = clone
        self._loop = loop
        self._disks = disks

    @property
    def agent(self) -> GuestConnection:
        return self.clone.guest.agent

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        async def bounded() -> Answer:
            async with asyncio.timeout(PATIENCE_S):
                return await work

        return self._loop.run_until_complete(bounded())

    def spec(self, disk: str, **more: Any) -> GuestContainer:
        """A container of the image on that disk; `upper` is the name of a disk, too."""
        if "upper" in more:
            more["upper"] = self.engine.plan.device(more["upper"])
        return GuestContainer(self.engine.plan.device(disk), more.pop("hostname", "box"), **more)

    async def copy_of(self, stored: StoredTemplate, conversation: Conversation) -> Clone:
        """A machine that goes on from what `freeze` has kept; the caller ends it."""
        plan, confinement = self.engine.plan, self.engine.confinement
        return await restore(
            plan,
            stored,
            confinement,
            Timings(),
            disks=self._disks,
            conversation=conversation,
            stood=stored.memory < 0,
        )

    @asynccontextmanager
    async def container(self, disk: str, **more: Any) -> AsyncGenerator[Container]:
        made = await start_container(self.agent, self.spec(disk, **more))
        try:
            yield made
        finally:
            await made.end()


@contextmanager
def utility(templates: Path, disks: Mapping[str, Path], *, writable: str = "") -> Generator[Utility]:
    """A machine with these files as its disks, an image the first; its template is in `templates`."""
    data = tuple(
        DataDisk(name, path.stat().st_size, name != writable, for_container=not number)
        for number, (name, path) in enumerate(disks.items())
    )
    templates.mkdir(mode=0o700, exist_ok=True)
    engine = Engine(image("utility"), templates, data)
    loop = asyncio.new_event_loop()
    with ExitStack() as undo:
        undo.callback(loop.close)
        undo.callback(engine.close)
        fds: dict[str, int] = {}
        for name, path in disks.items():
            fds[name] = os.open(path, (os.O_RDWR if name == writable else os.O_RDONLY) | os.O_CLOEXEC)
            undo.callback(os.close, fds[name])
        manager = engine.clone(disks=fds)
        clone = loop.run_until_complete(manager.__aenter__())
        undo.callback(lambda: loop.run_until_complete(manager.__aexit__(None, None, None)))
        yield Utility(loop, engine, clone, fds)


def command(*words: str, **more: Any) -> GuestCommand:
    """As root without capabilities, unless told otherwise."""
    return replace(GuestCommand(words, PATH, user=(0, 0)), **more)


async def started(where: Container | GuestConnection, *words: str, **more: Any) -> GuestProcess:
    """A command that goes on; nobody wants its output."""
    return await _agent(where).execute(command(*words, **more), stdin=None, stdout=len, stderr=len)


async def execute(
    where: Container | GuestConnection, *words: str, stdin: int | None = None, **more: Any
) -> Said:
    """A command to its end."""
    out, err = bytearray(), bytearray()
    wanted = command(*words, **more)
    process = await _agent(where).execute(wanted, stdin=stdin, stdout=out.extend, stderr=err.extend)
    ended = await process.wait(deadline_s=_ANSWER_S)
    status = os.waitstatus_to_exitcode(ended.status)
    return Said(status, out.decode(errors="replace"), err.decode(errors="replace"), ended.flags)


async def sh(where: Container | GuestConnection, line: str, **more: Any) -> Said:
    """A shell line to its end."""
    return await execute(where, "/bin/sh", "-c", line, **more)


async def prints(where: Container | GuestConnection, line: str, **more: Any) -> str:
    """What a shell line prints, which must succeed."""
    said = await sh(where, line, **more)
    assert said.status == 0, said
    return said.out


def _agent(where: Container | GuestConnection) -> GuestConnection:
    return where.agent if isinstance(where, Container) else where
