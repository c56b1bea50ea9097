"""Clones of one template: each its own machine, and none that changes what the next one starts from."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import re
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from backends.errors import LaunchFailed
from backends.inside.agent_protocol import GuestCommand
from backends.qemu import template as template_module
from backends.qemu.clone import Clone, restore
from backends.qemu.console import KEPT_BYTES
from backends.qemu.template import WARM_PATH, open_template
from backends.qemu.timings import Timings
from tests.vm_engine import Engine, code_of, drive, opened_engine, qemu_of, said

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

WHO_AM_I = """
cat /proc/sys/kernel/random/uuid
od -An -tx1 -N16 /dev/urandom
cat /proc/sys/kernel/hostname
echo "$(cat /etc/machine-id)"
cat /sys/class/net/eth0/address
"""
TRAITS = ("uuid", "random bytes", "hostname", "machine-id", "MAC address")
CLOCK_S = 0.05


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with opened_engine(tmp_path_factory.getbasetemp() / "templates") as made:
        yield made


def traits(text: str) -> dict[str, str]:
    return dict(zip(TRAITS, text.splitlines(), strict=True))


def test_two_clones_are_two_machines(engine: Engine) -> None:
    """What is asked for is the very first thing that runs in each."""

    async def main() -> None:
        async with engine.clone() as one, engine.clone() as other:
            first, second = traits(await said(one, WHO_AM_I)), traits(await said(other, WHO_AM_I))
        assert [name for name in TRAITS if first[name] == second[name]] == []
        for found in (first, second):
            assert re.fullmatch("[0-9a-f]{32}", found["machine-id"])
            assert int(found["MAC address"][:2], 16) & 3 == 2, "locally administered, of one card"

    drive(main())


def test_without_an_identity_they_would_be_doubles(engine: Engine) -> None:
    """The control: names come from the template. So do random numbers, until something stirs them."""

    async def main() -> None:
        found: list[dict[str, str]] = []
        for _ in range(2):
            async with engine.clone(identified=False) as clone:
                found.append(traits(await said(clone, WHO_AM_I)))
        assert _same(found[0], found[1], "hostname", "machine-id", "MAC address")

    drive(main())


def _same(one: dict[str, str], other: dict[str, str], *names: str) -> bool:
    return one is not other and all(one[name] == other[name] for name in names)


def test_the_clock_of_a_clone_is_the_hosts(engine: Engine) -> None:
    """Whatever time the template has slept: its own clock stands where it was made."""

    async def main() -> None:
        async with engine.clone() as clone:
            earliest, latest = await clock_offset(clone)
        assert latest > -CLOCK_S, f"the guest's clock is behind by more than {-latest} s"
        assert earliest < CLOCK_S, f"the guest's clock is ahead by more than {earliest} s"
        assert latest - earliest < 2 * CLOCK_S, "asked quickly enough to tell"

    drive(main())


async def clock_offset(clone: Clone) -> tuple[float, float]:
    """Between which two values (guest - host) lies, from a shell that answers line by line."""
    ours, theirs = os.pipe()
    answers: asyncio.Queue[float] = asyncio.Queue()
    process = await clone.guest.agent.execute(
        GuestCommand(("/bin/bash", "-c", "while read _; do echo $EPOCHREALTIME; done"), env=WARM_PATH),
        stdin=ours,
        stdout=lambda data: answers.put_nowait(float(bytes(data))),
        stderr=lambda _: None,
    )
    earliest, latest = float("-inf"), float("inf")
    for _ in range(30):
        before = time.time()
        os.write(theirs, b"\n")
        guest = await answers.get()
        earliest, latest = max(earliest, guest - time.time()), min(latest, guest - before)
    os.close(theirs)
    await process.wait()
    os.close(ours)
    return earliest, latest


def test_a_clone_cannot_change_what_the_next_one_starts_from(engine: Engine) -> None:
    """It writes all the memory that it has."""

    async def main() -> None:
        template = await engine.template()
        before = _digest(template.memory)
        async with engine.clone() as clone:
            fill = "dd if=/dev/zero of=/dev/shm/full bs=1M count=90 2> /dev/null && du -m /dev/shm/full"
            assert (await said(clone, fill, privileged=True)).startswith("90\t")
            assert _digest(template.memory) == before
        async with engine.clone() as clone:
            assert await said(clone, "ls /dev/shm") == ""
        assert fcntl.fcntl(template.memory, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE

    drive(main())


def test_qemu_itself_holds_only_sealed_memory(engine: Engine) -> None:
    """It has its file open for writing; the seal is what holds (lab §4)."""

    async def main() -> None:
        async with engine.clone() as clone:
            folder = Path(f"/proc/{qemu_of(clone)}/fd")
            memory = [fd for fd in folder.iterdir() if "template-memory" in str(fd.readlink())]
            assert memory
            for path in memory:
                fd = os.open(path, os.O_RDWR)
                try:
                    with pytest.raises(PermissionError):
                        os.pwrite(fd, b"x", 0)
                finally:
                    os.close(fd)

    drive(main())


def test_a_stored_template_is_not_made_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        await engine.template()
        monkeypatch.setattr(template_module, "boot", None)
        (await open_template(engine.plan, engine.confinement, engine.store)).close()

    drive(main())


def test_the_steps_of_a_restore_are_told_in_their_order(engine: Engine) -> None:
    async def main() -> None:
        timings = Timings()
        clone = await restore(engine.plan, await engine.template(), engine.confinement, timings)
        await clone.end()
        names = [name for name, _ in timings.as_pairs()]
        assert names == ["spawned", "qmpUp", "restored", "agentReady"]
        times = [ms for _, ms in timings.as_pairs()]
        assert times == sorted(times)

    drive(main())


def test_what_qemu_refuses_is_said_in_its_words(engine: Engine) -> None:
    async def main() -> None:
        async with engine.clone() as clone:
            with pytest.raises(LaunchFailed) as caught:
                await clone.guest.machine.execute("no-such-command")
            assert code_of(caught) == "qemu_refused"
            assert "no-such-command" in str(caught.value)
            assert await said(clone, "echo still") == "still\n"

    drive(main())


def test_a_flood_on_the_console_is_bounded_and_holds_nothing_up(engine: Engine) -> None:
    async def main() -> None:
        async with engine.clone() as clone:
            await said(clone, "head -c 1000000 /dev/zero | tr '\\0' x > /dev/hvc0", privileged=True)
            while "the end" not in clone.guest.machine.console.text():
                # Linux loses what a console has not taken a second after its last writer is gone.
                await said(clone, "echo the end > /dev/hvc0", privileged=True)
            assert len(clone.guest.machine.console.text()) <= KEPT_BYTES
            assert await said(clone, "echo still") == "still\n"

    drive(main())


def test_many_commands_run_at_once_in_one_machine(engine: Engine) -> None:
    async def main() -> None:
        async with engine.clone() as clone:
            lines = [f"sleep 0.{number % 3}; echo {number}" for number in range(12)]
            texts = await asyncio.gather(*(said(clone, line) for line in lines))
            assert texts == [f"{number}\n" for number in range(12)]

    drive(main())


def test_clones_of_one_template_leave_no_descriptor(engine: Engine) -> None:
    async def main() -> None:
        await engine.works()
        gc.collect()  # what earlier tests left is closed now, not while this one counts
        before = _descriptors()
        for _ in range(3):
            await engine.works()
        assert _descriptors() == before

    drive(main())


def _descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def _digest(fd: int) -> bytes:
    digest = sha256()
    position = 0
    while piece := os.pread(fd, 1 << 20, position):
        digest.update(piece)
        position += len(piece)
    return digest.digest()
