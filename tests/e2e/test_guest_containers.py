"""Containers in a virtual machine, each with an agent of its own that does all that the machine's can."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.agent.container import Container, start_container
from backends.agent.errors import GuestRefused
from backends.guest_files.archive import put_content
from backends.guest_files.disk import build_disk
from backends.guest_files.plan import plan_files
from backends.guest_files.snapshot import Snapshot
from backends.inside.agent_protocol import (
    EndedFlag,
    GuestFiles,
    GuestHide,
    GuestIdentity,
    GuestMount,
    GuestNetwork,
    MountFlag,
    Step,
)
from backends.qemu.off_loop import off_loop
from tests.containers import PATH, Utility, busybox_tree, execute, pack, prints, sh, started, utility
from tests.unit.guest_files import DENIED, RO, RW, archive_of, view_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="grants of several owners are root's to make"),
    pytest.mark.backend("vm"),
    pytest.mark.backend("microvm"),
]

GRANTS_BYTES = 1 << 20
MUCH_BYTES = 3_000_000
WORKLOAD = (1000, 1000)


class Granted:
    """What the host grants, and how it gets into a guest: a mask and a copy below what can only be read."""

    def __init__(self, top: Path) -> None:
        for name in ("shown/deep", "shown/secret", "shown/written", "copied"):
            (top / name).mkdir(parents=True)
        (top / "shown/file").write_text("from the host\n")
        (top / "shown/deep/file").write_text("deep\n")
        (top / "shown/secret/key").write_text("hidden\n")
        (top / "shown/written/old").write_text("old\n")
        (top / "copied/note").write_text("copied\n")
        self.top = top
        self.view, self.handles = view_of(
            (
                *((top / "shown", RO), (top / "shown/secret", DENIED), (top / "shown/written", RW)),
                *((top / "copied", RW), (Path("/etc/denied-here"), DENIED)),
            )
        )

    async def furnish(self, container: Container, device: str, inside: tuple[int, int] = WORKLOAD) -> None:
        """The very steps that a virtual machine is furnished by."""
        files = plan_files(self.view, device=device, inside=inside)
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
    disks = {
        "box": pack(box, folder / "box.erofs"),
        "other": pack(other, folder / "other.erofs"),
        "grants": folder / "grants",
    }
    with utility(tmp_path_factory.getbasetemp() / "utility-templates", disks) as made:
        yield made


def test_a_command_runs_as_in_a_machine(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box", hostname="inner") as box:
            said = await sh(box, "echo out; echo err >&2; exit 7")
            assert (said.status, said.out, said.err) == (7, "out\n", "err\n")
            assert await prints(box, "hostname; cat /etc/hostname") == "inner\ninner\n"
            assert "127.0.0.1 localhost inner" in await prints(box, "cat /etc/hosts")
            variables = (*PATH, ("NAME", "value"))
            line = "id -u; id -g; echo $NAME; pwd"
            told = await prints(box, line, user=(12, 34), cwd="/tmp", env=variables)
            assert told == "12\n34\nvalue\n/tmp\n"
            with pytest.raises(GuestRefused) as caught:
                await execute(box, "/no/such")
            assert (caught.value.step, caught.value.errno) == (Step.EXEC, errno.ENOENT)

    machine.run(main())


def test_much_flows_both_ways(machine: Utility) -> None:
    """More than any window or pipe holds, through both connections."""

    async def main() -> None:
        content = bytes(range(1, 128)) * (MUCH_BYTES // 127)
        source = os.memfd_create("content")
        os.write(source, content)
        os.lseek(source, 0, os.SEEK_SET)
        try:
            async with machine.container("box") as box:
                said = await execute(box, "/bin/cat", stdin=source)
        finally:
            os.close(source)
        assert (said.status, said.out) == (0, content.decode())

    machine.run(main())


def test_programs_run_side_by_side(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            await prints(box, "mkfifo /tmp/a /tmp/b")
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
            waiting = await started(two, "/bin/sleep", "1234")
            await prints(two, "echo of two >/tmp/file; echo of two >/dev/shm/file")
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
            await prints(one, "echo mine >/etc/mine; rm /etc/denied-here")
            assert await prints(two, "ls /etc") == "denied-here\nhostname\nhosts\nresolv.conf\n"

    machine.run(main())


def test_grants_and_masks_get_in_by_the_steps_of_a_machine(machine: Utility, granted: Granted) -> None:
    async def main() -> None:
        top = granted.top
        async with machine.container("box") as box:
            await granted.furnish(box, machine.engine.plan.device("grants"))
            shown = await prints(box, f"cat {top}/shown/file {top}/shown/deep/file", user=WORKLOAD)
            assert shown == "from the host\ndeep\n"
            refused = await sh(box, f"echo x >{top}/shown/file")
            assert refused.status != 0 and "Read-only file system" in refused.err
            assert (await sh(box, f"ls {top}/shown/secret/key")).status != 0
            assert (await sh(box, "cat /etc/denied-here")).out == ""
            write = f"echo new >{top}/shown/written/new; echo more >>{top}/copied/note"
            await prints(box, write, user=WORKLOAD)
            seen = await prints(box, f"cat {top}/shown/written/old {top}/copied/note")
            assert seen == "old\ncopied\nmore\n"
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
            await granted.furnish(two, device, inside=(0, 5))
            await prints(one, f"echo one >{note}", user=WORKLOAD)
            assert await prints(two, f"cat {note}; stat -c %u:%g {note}") == "copied\n0:5\n"
            await prints(two, f"echo two >{note}", user=(0, 5))
            assert await prints(one, f"cat {note}") == "one\n"

    machine.run(main())


def test_files_are_put_and_mounts_made(machine: Utility) -> None:
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
        grow, limit = (
            "head -c 40000000 /dev/zero | tail -c 39000000 >/dev/null",
            (("memory.max", "16777216"),),
        )
        async with machine.container("box") as box:
            unlimited = await started(box, "/bin/sleep", "600")  # in the group that others are below
            assert EndedFlag.HIT_MEMORY in (await sh(box, grow, cgroup=limit)).flags
            assert (await sh(box, grow)).status == 0
            assert not unlimited.exited.done()
        async with machine.container("box", cgroup=limit) as box:
            assert "Killed" in (await sh(box, f"{grow}; sleep 0")).err
            assert await prints(box, "cat /sys/fs/cgroup/memory.max") == "16777216\n"

    machine.run(main())


def test_a_root_may_be_read_only(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box", flags=MountFlag.READ_ONLY | MountFlag.NO_DEV) as box:
            for place in ("/file", "/etc/hosts", "/dev/file"):
                assert "Read-only file system" in (await sh(box, f"echo x >{place}")).err
            assert await prints(box, "echo x >/dev/shm/file; cat /dev/shm/file") == "x\n"

    machine.run(main())


def test_a_network_is_shared_or_its_own(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box") as box, machine.container("box", own_network=True) as alone:
            listening = await started(box, "/bin/nc", "-l", "-p", "4000")
            assert "eth0" in await prints(box, "ls /sys/class/net")
            assert await prints(alone, "ls /sys/class/net; cat /etc/resolv.conf") == "lo\n"
            assert (await sh(alone, "nc 127.0.0.1 4000 </dev/null")).status != 0
            await prints(box, "until nc 127.0.0.1 4000 </dev/null; do sleep 0.1; done")
            await listening.wait(deadline_s=20)

    machine.run(main())


def test_a_way_leads_to_the_containers_own_loopback(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box", own_network=True) as alone:
            await started(alone, "/bin/sh", "-c", "echo hello | nc -l -p 5000")
            await prints(alone, "until netstat -ltn | grep -q :5000; do sleep 0.1; done")
            assert (await execute(alone, "way", port=5000)).out == "hello\n"

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
