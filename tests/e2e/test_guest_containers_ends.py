"""How containers end, what cannot be one, what stays on a disk; and copies of a machine with some in it."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from backends.agent.container import start_container
from backends.agent.errors import GuestLost, GuestRefused
from backends.agent.inherited import Conversation, come_to_rest, conversation_of
from backends.errors import LaunchFailed
from backends.frozen import replace
from backends.inside.agent_protocol import Step
from tests.containers import Utility, busybox_tree, execute, ext4, pack, prints, sh, started, utility
from tests.vm_engine import code_of

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

UPPER_BYTES = 8 << 20
ROUNDS, AT_ONCE = 3, 4


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Utility]:
    folder = tmp_path_factory.mktemp("ends")
    (folder / "broken").write_bytes(b"\xe2\xe1\xf5\xe0" * (1 << 18))
    disks: dict[str, Path] = {
        "box": pack(busybox_tree(folder / "box"), folder / "box.erofs"),
        "broken": folder / "broken",
        "upper": ext4(folder / "upper", UPPER_BYTES),
    }
    with utility(tmp_path_factory.getbasetemp() / "utility-templates", disks, writable="upper") as made:
        yield made


def test_the_end_of_a_container_is_the_end_of_all_in_it(machine: Utility) -> None:
    """Also of what ignores signals, and of what its shell had left behind; its disks are free."""

    async def main() -> None:
        async with machine.container("box", upper="upper") as box:
            await prints(box, "trap '' TERM HUP; (setsid sleep 4321 &) >/dev/null 2>&1")
            assert "4321" in await prints(box, "ps")
        assert "4321" not in await prints(machine.agent, "ps")
        assert "container-" not in await prints(machine.agent, "ls /sys/fs/cgroup")
        async with machine.container("box", upper="upper") as box:
            assert "4321" not in await prints(box, "ps")

    machine.run(main())


def test_whoever_hangs_up_ends_it(machine: Utility) -> None:
    async def main() -> None:
        box = await start_container(machine.agent, machine.spec("box"))
        await box.agent.close()
        assert (await box.init.wait(deadline_s=20)).status == 0
        await box.end()

    machine.run(main())


def test_who_kills_it_ends_what_runs_in_it(machine: Utility) -> None:
    async def main() -> None:
        box = await start_container(machine.agent, machine.spec("box"))
        sleeping = await started(box, "/bin/sleep", "99")
        box.init.signal(signal.SIGKILL)
        with pytest.raises(GuestLost):
            await sleeping.wait(deadline_s=20)
        assert (await box.init.wait(deadline_s=20)).status == signal.SIGKILL
        await box.end()
        assert "sleep" not in await prints(machine.agent, "ps")

    machine.run(main())


def test_to_end_one_program_of_the_machine_ends_no_container(machine: Utility) -> None:
    """What runs in a container bears marks of its own agent, which may look like those of the machine's."""

    async def main() -> None:
        before = await started(machine.agent, "/bin/sleep", "77")
        async with machine.container("box") as box, machine.container("box") as other:
            inside = [await started(each, "/bin/sleep", "77") for each in (box, other)]
            after = await started(machine.agent, "/bin/sleep", "77")
            for process in (before, after):
                process.signal(signal.SIGKILL)
                assert (await process.wait(deadline_s=20)).status == signal.SIGKILL
            await other.end()
            assert [process.exited.done() for process in inside] == [False, True]
            assert "sleep 77" in await prints(box, "ps")

    machine.run(main())


def test_many_come_and_go(machine: Utility) -> None:
    """Nothing of them stays: no process, no group, no stream."""

    async def main() -> None:
        for _ in range(ROUNDS):
            async with AsyncExitStack() as stack:
                boxes = [
                    await stack.enter_async_context(machine.container("box", hostname=f"n{number}"))
                    for number in range(AT_ONCE)
                ]
                names = await asyncio.gather(*(prints(box, "hostname") for box in boxes))
                assert names == [f"n{number}\n" for number in range(AT_ONCE)]
        assert (await machine.agent.report()).streams == 0
        assert "--container" not in await prints(machine.agent, "ps")
        assert "container-" not in await prints(machine.agent, "ls /sys/fs/cgroup")

    machine.run(main())


def test_what_is_written_is_limited_and_kept_on_a_disk(machine: Utility) -> None:
    async def main() -> None:
        fill = "dd if=/dev/zero of=/fill bs=65536 count=500 2>&1"
        async with machine.container("box", size_bytes=1 << 20) as box:
            said = await sh(box, fill)
            assert said.status != 0 and "No space left" in said.out
            assert await prints(box, "rm /fill; echo goes on") == "goes on\n"
        async with machine.container("box", upper="upper") as box:
            assert "No space left" in (await sh(box, fill)).out
            await prints(box, "rm /fill; echo kept >/kept; rm -r /home")
        async with machine.container("box", upper="upper") as box:
            assert await prints(box, "cat /kept; test ! -e /home") == "kept\n"

    machine.run(main())


def test_a_disk_is_written_to_by_one_container_at_a_time(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box", upper="upper") as box:
            with pytest.raises(GuestRefused) as caught:
                await start_container(machine.agent, machine.spec("box", upper="upper"))
            assert (caught.value.step, caught.value.errno) == (Step.MOUNT, errno.EBUSY)
            assert caught.value.subject == machine.engine.plan.device("upper")
            assert await prints(box, "echo works >/works; cat /works") == "works\n"

    machine.run(main())


@pytest.mark.parametrize(
    ("changed", "step", "number", "subject"),
    [
        ({"root": "broken"}, Step.MOUNT, errno.EINVAL, "broken"),
        ({"root": "/dev/vdz"}, Step.MOUNT, errno.ENOENT, "/dev/vdz"),
        ({"root": "/dev/null"}, Step.MOUNT, errno.ENOTBLK, "/dev/null"),
        ({"root": ""}, Step.MOUNT, errno.EINVAL, ""),
        ({"file_system": "squashfs"}, Step.MOUNT, errno.ENODEV, "box"),
        ({"file_system": "vfat"}, Step.MOUNT, errno.ENODEV, "vfat"),
        ({"upper": "broken"}, Step.MOUNT, errno.EACCES, "broken"),
        ({"hostname": "x" * 65}, Step.HOSTNAME, errno.EINVAL, "x" * 65),
        ({"cgroup": (("memory.most", "1"),)}, Step.CGROUP, errno.ENOENT, "memory.most=1"),
    ],
)
def test_what_cannot_be_made_is_said_and_leaves_nothing(
    machine: Utility, changed: dict[str, str], step: Step, number: int, subject: str
) -> None:
    devices = {name: machine.engine.plan.device(name) for name in ("box", "broken")}

    async def main() -> None:
        named = {field: devices.get(value, value) for field, value in changed.items()}
        with pytest.raises(GuestRefused) as caught:
            await start_container(machine.agent, replace(machine.spec("box"), **named))
        assert (caught.value.step, caught.value.errno) == (step, number)
        assert caught.value.subject == devices.get(subject, subject)
        assert "container-" not in await prints(machine.agent, "ls /sys/fs/cgroup")

    machine.run(main())


def test_a_copy_of_a_machine_goes_on_with_its_containers(machine: Utility) -> None:
    """Each side with its own; what nobody goes on with has ended in the copy."""
    count = "n=0; while sleep 0.1; do n=$((n+1)); echo $n >/tmp/count; done"

    async def main() -> None:
        async with machine.container("box") as box, machine.container("box") as other:
            counter = await started(box, "/bin/sh", "-c", count)
            await prints(box, "until test -e /tmp/count; do sleep 0.1; done; echo before >/tmp/file")
            await come_to_rest(machine.agent, (box,))
            conversation = Conversation.of(conversation_of(machine.agent, (box,)).as_dict())
            stored = await machine.clone.freeze()
            await machine.clone.thaw()
            try:
                copy = await machine.copy_of(stored, conversation)
            finally:
                stored.close()
            try:
                (again,) = copy.guest.containers
                await prints(again, "echo copy >/tmp/file")
                await prints(box, "echo original >/tmp/file")
                assert await prints(again, "cat /tmp/file") == "copy\n"
                assert await prints(box, "cat /tmp/file") == "original\n"
                seen = int(await prints(again, "cat /tmp/count"))
                await prints(again, f"until test $(cat /tmp/count) -gt {seen}; do sleep 0.1; done")
                much = await execute(again, "/bin/head", "-c", "2000000", "/dev/zero")
                assert len(much.out) == 2_000_000
                one_left = "until test $(ls /sys/fs/cgroup | grep -c container-) = 1; do sleep 0.1; done"
                assert await prints(copy.guest.agent, one_left) == "", "the other one ends there"
                await again.end()
            finally:
                await copy.end()
            assert not counter.exited.done()
            assert await prints(other, "echo here") == "here\n"

    machine.run(main())


def test_a_disk_of_another_size_is_refused(machine: Utility, tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "small").write_bytes(bytes(4096))
        with (tmp_path / "small").open("rb") as file, pytest.raises(LaunchFailed) as caught:
            async with machine.engine.clone(disks={"box": file.fileno()}):
                pass
        assert code_of(caught) == "disk_size"

    machine.run(main())
