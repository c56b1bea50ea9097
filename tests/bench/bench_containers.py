"""Containers in clones of the utility VM: ``python -m tests.bench.bench_containers``.

Builds the images ``utility`` and ``python`` when they are not there yet; the latter's root is the container's
image of a Debian with Python. Everything is done in turns, in one run: the promise is the ratio to a plain
command in a clone, which takes 140 ms where a container may take 350.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path

from backends.agent.connection import GuestConnection
from backends.agent.container import start_container
from backends.agent.identity import new_identity
from backends.inside.agent_protocol import GuestCommand, GuestContainer
from backends.qemu.clone import restore
from backends.qemu.template_plan import GRANTS, DataDisk
from backends.qemu.timings import Timings
from tests.bench.measure import Durations, table
from tests.containers import busybox_tree, pack
from tests.images import image
from tests.vm_engine import Engine

ROUNDS = int(os.environ.get("MXC_BENCH_VM_ROUNDS", "15"))
PROMISED = 350 / 140
DISK = DataDisk("image", 1 << 30, for_container=True)
ENVIRONMENT = (("PATH", "/usr/bin:/bin"),)
ECHO = GuestCommand(("/bin/sh", "-c", "echo hi"), env=ENVIRONMENT)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = pack(busybox_tree(folder / "tree"), folder / "small")
        shutil.copy(image("python").rootfs, folder / "debian")
        for path in (small, folder / "debian"):
            os.truncate(path, DISK.size_bytes)
        (folder / "templates").mkdir(mode=0o700)
        engine = Engine(image("utility"), folder / "templates", (DISK, GRANTS))
        durations = asyncio.run(_measure(engine, {"small": small, "debian": folder / "debian"}))
        engine.close()
    table(f"spawn of a clone → end of echo (promised: x {PROMISED:.2f})", durations, against="plain command")


async def _measure(engine: Engine, images: dict[str, Path]) -> Durations:
    await engine.template()
    durations: Durations = {}
    for number in range(-1, ROUNDS):
        for title, path in {"plain command": None, **images}.items():
            took = await _once(engine, path)
            if number >= 0:
                durations.setdefault(title, []).append(took)
    return durations


async def _once(engine: Engine, path: Path | None) -> float:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else -1
    begun = time.perf_counter()
    disks = {DISK.name: fd} if path else {}
    template = await engine.template()
    clone = await restore(engine.plan, template, engine.confinement, Timings(), disks=disks)
    try:
        agent = clone.guest.agent
        await agent.identify(new_identity())
        if path:
            spec = GuestContainer(engine.plan.device(DISK.name), "box")
            agent = (await start_container(agent, spec)).agent
        await _run(agent)
        return (time.perf_counter() - begun) * 1000
    finally:
        await clone.end()
        if path:
            os.close(fd)


async def _run(agent: GuestConnection) -> None:
    answered = bytearray()
    process = await agent.execute(ECHO, stdin=None, stdout=answered.extend, stderr=answered.extend)
    ended = await process.wait(deadline_s=30)
    if ended.status or bytes(answered) != b"hi\n":
        raise RuntimeError(f"{ECHO.args} ended with {ended.status}: {answered.decode(errors='replace')}")


if __name__ == "__main__":
    main()
