"""Containers in a virtual machine, each with an agent of its own that does all that the machine's can."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from backends.agent.container import Container, start_container
from backends.agent.errors import GuestLost, GuestRefused
from backends.frozen import replace
from backends.guest_files.archive import put_content
from backends.guest_files.disk import build_disk
from backends.guest_files.plan import plan_files
from backends.guest_files.snapshot import Snapshot
from backends.inside.agent_protocol import (
    EndedFlag,
    GuestCommand,
    GuestFiles,
    GuestHide,
    GuestIdentity,
    GuestMount,
    GuestNetwork,
    MountFlag,
    Step,
)
from backends.qemu.off_loop import off_loop
from tests.containers import PATH, Utility, busybox_tree, execute, ext4, pack, prints, sh, utility
from tests.unit.guest_files import DENIED, RO, RW, archive_of, view_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="grants of several owners are root's to make"),
    pytest.mark.backend("vm"),
    pytest.mark.backend("microvm"),
]

GRANTS_BYTES = 1 << 20
UPPER_BYTES = 8 << 20
CONFLICTING = "read-only file system"


class Granted:
    """What the host grants: trees below `top`, and how they get into a guest."""

    def __init__(self, top: Path) -> None:
        for name in ("shown/deep", "shown/secret", "shown/written", "copied"):
            (top / name).mkdir(parents=True)
        (top / "shown/file").write_text("from the host\n")
        (top / "shown/deep/file").write_text("deep\n")
        (top / "shown/secret/key").write_text("hidden\n")
        (top / "shown/written/old").write_text("old\n")
        (top / "copied/note").write_text("copied\n")
        self.top = top
        policy = (
            *((top / "shown", RO), (top / "shown/secret", DENIED), (top / "shown/written", RW)),
            *((top / "copied", RW), (Path("/etc/denied-here"), DENIED)),
        )
        self.view, self.handles = view_of(policy)

    async def furnish(self, container: Container, device: str) -> None:
        """The very steps that a virtual machine is furnished by."""
        files = plan_files(self.view, device=device)
        snapshots: dict[int, Snapshot] = {}
        for step in files.guest_steps:
            if isinstance(step, GuestHide):
                await container.agent.hide(step)
            elif isinstance(step, GuestMount):
                await container.agent.mount(step)
            else:
                content = put_content(files, step, self.handles, snapshots)
                await container.agent.put(step.files, off_loop(content))


@pytest.fixture(scope="module")
def granted(tmp_path_factory: pytest.TempPathFactory) -> Granted:
    return Granted(tmp_path_factory.mktemp("granted"))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, granted: Granted) -> Iterator[Utility]:
    folder = tmp_path_factory.mktemp("containers")
    box = busybox_tree(folder / "box")
    (box / "etc/denied-here").write_text("the image's own\n")
    other = busybox_tree(folder / "other")
    (other / "etc/other").write_text("another image\n")
    disk = build_disk(plan_files(granted.view, device="/dev/vdx"), granted.handles, size_bytes=GRANTS_BYTES)
    (folder / "grants").write_bytes(os.pread(disk.fd, GRANTS_BYTES, 0))
    os.close(disk.fd)
    broken = folder / "broken"
    broken.write_bytes(b"\xe2\xe1\xf5\xe0" * (1 << 18))
    disks = {
        "box": pack(box, folder / "box.erofs"),
        "other": pack(other, folder / "other.erofs"),
        "broken": broken,
        "grants": folder / "grants",
        "upper": ext4(folder / "upper", UPPER_BYTES),
    }
    with utility(folder, disks, writable="upper") as made:
        yield made


def test_a_command_runs_as_in_a_machine(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box", hostname="inner") as box:
            said = await sh(box, "echo out; echo err >&2; exit 7")
            assert (said.status, said.out, said.err) == (7, "out\n", "err\n")
            assert await prints(box, "hostname; cat /etc/hostname") == "inner\ninner\n"
            assert "127.0.0.1 localhost inner" in await prints(box, "cat /etc/hosts")
            assert await prints(
                box, "id -u; id -g; echo $NAME; pwd", user=(12, 34), cwd="/tmp", env=(*PATH, ("NAME", "v"))
            ) == ("12\n34\nv\n/tmp\n")
            with pytest.raises(GuestRefused) as caught:
                await execute(box.agent, GuestCommand(("/no/such",), PATH, user=(0, 0)))
            assert (caught.value.step, caught.value.errno) == (Step.EXEC, errno.ENOENT)
            assert await prints(box, "readlink /proc/1/exe >/dev/null || echo not $PPID") == "not 1\n"

    machine.run(main())


def test_much_flows_both_ways(machine: Utility) -> None:
    """More than any window or pipe holds, through both connections."""

    async def main() -> None:
        content = os.urandom(3_000_000)
        source = os.memfd_create("content")
        os.write(source, content)
        os.lseek(source, 0, os.SEEK_SET)
        out = bytearray()
        try:
            async with machine.container("box") as box:
                process = await box.agent.execute(
                    GuestCommand(("/bin/cat",), PATH), stdin=source, stdout=out.extend, stderr=out.extend
                )
                assert (await process.wait(deadline_s=30)).status == 0
        finally:
            os.close(source)
        assert bytes(out) == content

    machine.run(main())


def test_programs_run_side_by_side(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            fifo = "mkfifo /tmp/a /tmp/b"
            assert (await sh(box, fifo)).status == 0
            there, back = await asyncio.gather(
                prints(box, "echo to >/tmp/a; cat /tmp/b"), prints(box, "cat /tmp/a; echo fro >/tmp/b")
            )
            assert (there, back) == ("fro\n", "to\n")

    machine.run(main())


def test_a_terminal(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            said = await sh(box, "tty; stty size; test -t 0 && echo yes >/dev/tty", tty=(24, 80))
            assert said.out.replace("\r", "") == "/dev/pts/0\n24 80\nyes\n"

    machine.run(main())


def test_two_containers_see_only_their_own(machine: Utility) -> None:
    async def main() -> None:
        async with (
            machine.container("box", hostname="one") as one,
            machine.container("other", hostname="two") as two,
        ):
            waiting = await two.agent.execute(
                GuestCommand(("/bin/sleep", "1234"), PATH), stdin=None, stdout=len, stderr=len
            )
            await sh(two, "echo of two >/tmp/file; echo of two >/dev/shm/file")
            assert "1234" in await prints(two, "ps")
            assert "1234" not in await prints(one, "ps")
            assert await prints(one, "ls -A /tmp /dev/shm") == "/dev/shm:\n\n/tmp:\n"
            assert await prints(one, "hostname; test ! -e /etc/other") == "one\n"
            assert await prints(two, "hostname; cat /etc/other /tmp/file") == "two\nanother image\nof two\n"
            await one.end()
            assert not waiting.exited.done()
            assert await prints(two, "echo still here") == "still here\n"

    machine.run(main())


def test_one_image_serves_several(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box") as one, machine.container("box") as two:
            await sh(one, "echo mine >/etc/mine")
            assert await prints(two, "ls /etc") == "denied-here\nhostname\nhosts\nresolv.conf\n"

    machine.run(main())


def test_grants_and_masks_get_in_by_the_steps_of_a_machine(machine: Utility, granted: Granted) -> None:
    async def main() -> None:
        top = granted.top
        async with machine.container("box") as box:
            await granted.furnish(box, machine.engine.plan.device("grants"))
            assert await prints(box, f"cat {top}/shown/file {top}/shown/deep/file") == "from the host\ndeep\n"
            refused = await sh(box, f"echo x >{top}/shown/file")
            assert refused.status != 0 and CONFLICTING in refused.err.lower()
            assert (await sh(box, f"ls {top}/shown/secret/key")).status != 0
            assert (await sh(box, "cat /etc/denied-here")).out == ""
            write = f"echo new >{top}/shown/written/new; echo more >>{top}/copied/note"
            await prints(box, write, user=(1000, 1000))
            assert (
                await prints(box, f"cat {top}/shown/written/old {top}/copied/note") == "old\ncopied\nmore\n"
            )
            got = bytearray()
            async for chunk in box.agent.get(GuestFiles("/run/mxc/rw/0")):
                got += chunk
            assert b"copied\nmore\n" in got

    machine.run(main())


def test_each_of_two_has_its_own_copies_of_grants(machine: Utility, granted: Granted) -> None:
    async def main() -> None:
        note = f"{granted.top}/copied/note"
        device = machine.engine.plan.device("grants")
        async with machine.container("box") as one, machine.container("other") as two:
            await granted.furnish(one, device)
            await granted.furnish(two, device)
            await prints(one, f"echo one >{note}", user=(1000, 1000))
            assert await prints(two, f"cat {note}") == "copied\n"

    machine.run(main())


def test_files_are_put_and_got(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            await box.agent.put(GuestFiles("/put/here", owner=(5, 6)), iter([archive_of({"d": 0o755})]))
            assert await prints(box, "stat -c %u:%g /put/here/d") == "5:6\n"
            await box.agent.mount(GuestMount("/put/small", "", "tmpfs", MountFlag.NO_DEV, 65536))
            assert (await sh(box, "head -c 100000 /dev/zero >/put/small/file")).status != 0

    machine.run(main())


def test_time_ends_a_command_and_not_its_container(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            said = await sh(box, "sleep 600 & sleep 600", timeout=(200, 100, signal.SIGTERM))
            assert EndedFlag.TIMED_OUT in said.flags
            assert "sleep" not in await prints(box, "ps")

    machine.run(main())


def test_limits_of_a_command_and_of_a_container_hold(machine: Utility) -> None:
    async def main() -> None:
        grow = "head -c 40000000 /dev/zero | tail -c 39000000 >/dev/null"
        async with machine.container("box") as box:
            said = await sh(box, grow, cgroup=(("memory.max", str(16 << 20)),))
            assert EndedFlag.HIT_MEMORY in said.flags
            assert (await sh(box, grow)).status == 0
        async with machine.container("box", cgroup=(("memory.max", str(16 << 20)),)) as box:
            assert "Killed" in (await sh(box, f"{grow}; sleep 0")).err
            assert await prints(box, "cat /sys/fs/cgroup/memory.max") == f"{16 << 20}\n"

    machine.run(main())


def test_the_end_of_a_container_is_the_end_of_all_in_it(machine: Utility) -> None:
    """Also of what ignores signals, and of what its shell had left behind."""

    async def main() -> None:
        async with machine.container("box", upper="upper") as box:
            await sh(box, "trap '' TERM HUP; (setsid sleep 4321 &) >/dev/null 2>&1")
            assert "4321" in await prints(box, "ps")
        assert "4321" not in await prints(machine.agent, "ps")
        assert "container-" not in await prints(machine.agent, "ls /sys/fs/cgroup")
        assert "vd" not in await prints(machine.agent, "cat /proc/mounts")

    machine.run(main())


def test_whoever_hangs_up_ends_it(machine: Utility) -> None:
    async def main() -> None:
        box = await start_container(machine.agent, machine.spec("box"))
        await box.agent.close()
        assert (await box.init.wait(deadline_s=20)).status == 0
        box = await start_container(machine.agent, machine.spec("box"))
        process = await box.agent.execute(
            GuestCommand(("/bin/sleep", "99"), PATH), stdin=None, stdout=len, stderr=len
        )
        box.init.signal(signal.SIGKILL)
        with pytest.raises(GuestLost):
            await process.wait(deadline_s=20)
        await box.end()
        assert "sleep" not in await prints(machine.agent, "ps")

    machine.run(main())


def test_to_end_one_program_of_the_machine_ends_no_container(machine: Utility) -> None:
    """What runs in a container bears marks of its own agent, which may look like those of the machine's."""

    async def main() -> None:
        sleep = GuestCommand(("/bin/sleep", "77"), PATH)
        before = await machine.agent.execute(sleep, stdin=None, stdout=len, stderr=len)
        async with machine.container("box") as box:
            inside = await box.agent.execute(sleep, stdin=None, stdout=len, stderr=len)
            after = await machine.agent.execute(sleep, stdin=None, stdout=len, stderr=len)
            for process in (before, after):
                process.signal(signal.SIGKILL)
                assert (await process.wait(deadline_s=20)).status == signal.SIGKILL
            assert not inside.exited.done()
            assert "sleep 77" in await prints(box, "ps")

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
            await prints(box, "rm /fill; echo kept >/kept; echo changed >/etc/denied-here; rm -r /home")
        async with machine.container("box", upper="upper") as box:
            assert await prints(box, "cat /kept /etc/denied-here; test ! -e /home") == "kept\nchanged\n"

    machine.run(main())


def test_a_root_may_be_read_only(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box", flags=MountFlag.READ_ONLY | MountFlag.NO_DEV) as box:
            for place in ("/file", "/etc/hosts", "/dev/file"):
                assert CONFLICTING in (await sh(box, f"echo x >{place}")).err.lower()
            assert await prints(box, "echo x >/dev/shm/file; cat /dev/shm/file") == "x\n"

    machine.run(main())


def test_a_network_is_shared_or_its_own(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box") as box, machine.container("box", own_network=True) as alone:
            listening = await box.agent.execute(
                GuestCommand(("/bin/nc", "-l", "-p", "4000"), PATH), stdin=None, stdout=len, stderr=len
            )
            assert "eth0" in await prints(box, "ls /sys/class/net; cat /proc/net/dev")
            assert await prints(alone, "ls /sys/class/net") == "lo\n"
            assert "UP" in await prints(alone, "ip link show lo")
            assert (await sh(alone, "nc 127.0.0.1 4000 </dev/null")).status != 0
            assert (await sh(box, "until nc 127.0.0.1 4000 </dev/null; do sleep 0.1; done")).status == 0
            await listening.wait(deadline_s=20)
            reached = bytearray()
            serving = await alone.agent.execute(
                GuestCommand(("/bin/sh", "-c", "echo hello | nc -l -p 5000"), PATH),
                stdin=None,
                stdout=len,
                stderr=len,
            )
            await sh(alone, "until netstat -ltn | grep -q :5000; do sleep 0.1; done")
            way = await alone.agent.execute(
                GuestCommand(("port",), port=5000), stdin=None, stdout=reached.extend, stderr=len
            )
            await way.wait(deadline_s=20)
            await serving.wait(deadline_s=20)
            assert reached == b"hello\n"

    machine.run(main())


@pytest.mark.parametrize(
    ("disk", "more", "step", "number", "subject"),
    [
        ("broken", {}, Step.MOUNT, errno.EINVAL, "broken"),
        ("box", {"file_system": "squashfs"}, Step.MOUNT, errno.ENODEV, "box"),
        ("box", {"file_system": "vfat"}, Step.MOUNT, errno.ENODEV, "vfat"),
        ("box", {"upper": "broken"}, Step.MOUNT, errno.EACCES, "broken"),
        ("box", {"hostname": "x" * 65}, Step.HOSTNAME, errno.EINVAL, "x" * 65),
        ("box", {"cgroup": (("memory.most", "1"),)}, Step.CGROUP, errno.ENOENT, "memory.most=1"),
    ],
)
def test_what_cannot_be_made_is_said_and_leaves_nothing(
    machine: Utility, disk: str, more: dict[str, object], step: Step, number: int, subject: str
) -> None:
    async def main() -> None:
        with pytest.raises(GuestRefused) as caught:
            await start_container(machine.agent, machine.spec(disk, **more))
        wanted = machine.engine.plan.device(subject) if subject in ("box", "broken") else subject
        assert (caught.value.step, caught.value.errno, caught.value.subject) == (step, number, wanted)
        assert "container-" not in await prints(machine.agent, "ls /sys/fs/cgroup")

    machine.run(main())


def test_a_device_that_is_not_there(machine: Utility) -> None:
    async def main() -> None:
        spec = machine.spec("box")
        for lacking, number in (("/dev/vdz", errno.ENOENT), ("/dev/null", errno.ENOTBLK), ("", errno.EINVAL)):
            with pytest.raises(GuestRefused) as caught:
                await start_container(machine.agent, replace(spec, root=lacking))
            assert (caught.value.step, caught.value.errno) == (Step.MOUNT, number)
            assert caught.value.subject == lacking

    machine.run(main())


def test_only_a_machine_is_told_who_it_is_and_makes_containers(machine: Utility) -> None:
    async def main() -> None:
        identity = GuestIdentity(0, bytes(64), "0" * 32, bytes(6), "other")
        async with machine.container("box") as box:
            for work in (
                box.agent.identify(identity),
                box.agent.bring_up(GuestNetwork(None, None, "")),
                start_container(box.agent, machine.spec("box")),
            ):
                with pytest.raises(GuestRefused) as caught:
                    await work
                assert caught.value.errno == errno.EPERM
            assert await prints(box, "hostname") == "box\n"

    machine.run(main())


def test_many_come_and_go(machine: Utility) -> None:
    """Nothing of them stays: no process, no group, no mount."""

    async def main() -> None:
        for _ in range(3):
            async with AsyncExitStack() as stack:
                boxes = [
                    await stack.enter_async_context(machine.container("box", hostname=f"n{n}"))
                    for n in range(4)
                ]
                names = await asyncio.gather(*(prints(box, "hostname") for box in boxes))
                assert names == [f"n{n}\n" for n in range(4)]
        report = await machine.agent.report()
        assert report.streams == 0
        assert "agent --container" not in await prints(machine.agent, "ps")

    machine.run(main())
