"""What a workload in a container can do to its machine, its neighbours and its own agent.

It is the image's user, which may be root, without capabilities.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator

import pytest

from backends.inside.agent_protocol import GuestFiles, GuestMount, MountFlag
from tests.containers import (
    OWN_DEVICES,
    Utility,
    busybox_tree,
    command,
    execute,
    pack,
    prints,
    sh,
    started,
    utility,
)
from tests.unit.guest_files import archive_of

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

ROOT, USER = (0, 0), (1000, 1000)
LIMITS_ITS_AGENT = """
#define _GNU_SOURCE
#include <errno.h>
#include <sys/resource.h>

int main(void)
{
    struct rlimit none = {0, 0};
    return prlimit(1, RLIMIT_NOFILE, &none, (struct rlimit *)0) == 0 ? 0 : errno;
}
"""
users = pytest.mark.parametrize("user", [ROOT, USER], ids=["root", "user"])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Utility]:
    folder = tmp_path_factory.mktemp("hostile")
    tree, source = busybox_tree(folder / "box"), folder / "limit.c"
    source.write_text(LIMITS_ITS_AGENT)
    subprocess.run(["gcc", "-static", "-O1", "-o", tree / "bin/limit-its-agent", source], check=True)
    disks = {"box": pack(tree, folder / "box.erofs")}
    with utility(tmp_path_factory.getbasetemp() / "utility-templates", disks) as made:
        yield made


@users
def test_it_sees_its_own_processes_and_no_others(machine: Utility, user: tuple[int, int]) -> None:
    async def main() -> None:
        async with machine.container("box") as box, machine.container("box") as neighbour:
            for other in (neighbour, machine.agent):
                await started(other, "/bin/sleep", "31415", user=user)
            numbers = (await prints(box, "cd /proc; echo [0-9]*", user=user)).split()
            assert len(numbers) == 2
            assert "31415" not in await prints(box, "cat /proc/[0-9]*/cmdline", user=user)
            machine.agent.signal_everything(9)
        # With the machine's own programs, that was the end of every container.
        assert "31415" not in await prints(machine.agent, "cat /proc/[0-9]*/cmdline")

    machine.run(main())


@users
def test_it_cannot_look_into_its_agent_nor_end_it(machine: Utility, user: tuple[int, int]) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            for name in ("root/", "cwd/", "fd/", "environ", "mem", "maps", "auxv", "task/1/fd/"):
                said = await sh(box, f"ls /proc/1/{name}* && head -c1 /proc/1/{name}", user=user)
                assert said.status != 0, (name, said)
            assert "Permission denied" in (await sh(box, "readlink -v /proc/1/exe", user=user)).err
            for signal in ("TERM", "HUP", "INT", "STOP", "SEGV", "USR1", "KILL"):
                await sh(box, f"kill -{signal} 1", user=user)
            assert await prints(box, "echo there", user=user) == "there\n"
            assert (await sh(box, "echo -1000 >/proc/1/oom_score_adj", user=user)).status != 0

    machine.run(main())


@users
def test_it_sets_its_agent_no_limits(machine: Utility, user: tuple[int, int]) -> None:
    """By prlimit(2), which asks for no capability of who has all the user and group ids of the other."""

    async def main() -> None:
        async with machine.container("box") as box:
            assert (await sh(box, "limit-its-agent", user=user)).status == errno.EPERM

    machine.run(main())


@users
def test_it_cannot_look_into_a_process_of_its_agents(machine: Utility, user: tuple[int, int]) -> None:
    """One that is a way to a port runs as the workload, and executes nothing."""

    async def main() -> None:
        async with machine.container("box") as box:
            await started(box, *["/bin/nc", "-l", "-p", "4100", "-e", "/bin/sleep", "60"], user=user)
            await sh(box, "until netstat -ltn | grep -q :4100; do sleep 0.1; done")
            source, end = os.pipe()
            try:
                wanted = command("way", user=user, port=4100)
                way = await box.agent.execute(wanted, stdin=source, stdout=len, stderr=len)
                agents = await prints(box, "grep -l -e [-]-container /proc/[0-9]*/cmdline", user=user)
                assert agents == f"/proc/1/cmdline\n/proc/{way.pid}/cmdline\n"
                for name in ("exe", "root", "fd/0"):
                    assert (await sh(box, f"readlink /proc/{way.pid}/{name}", user=user)).out == ""
                assert not way.exited.done()
            finally:
                os.close(source)
                os.close(end)

    machine.run(main())


@users
def test_it_finds_no_device_of_the_machine(machine: Utility, user: tuple[int, int]) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            assert (await prints(box, "ls /dev", user=user)).split() == OWN_DEVICES
            assert (await sh(box, "mknod /tmp/disk b 254 0", user=user)).status != 0
            assert (await sh(box, "mknod /dev/disk b 254 0", user=user)).status != 0
            assert (await sh(box, "rm /dev/null || touch /dev/more", user=user)).status != 0
            assert await prints(box, "ls /dev/pts /dev/shm", user=user) == "/dev/pts:\nptmx\n\n/dev/shm:\n"

    machine.run(main())


@users
@pytest.mark.parametrize(
    "attack",
    [
        "echo x >/proc/sys/kernel/hostname",
        "echo '|/bin/sh' >/proc/sys/kernel/core_pattern",
        "echo /bin/sh >/proc/sys/kernel/modprobe",
        "echo 0 >/proc/sys/kernel/randomize_va_space",
        "echo 3 >/proc/sys/vm/drop_caches",
        "echo 1 >/proc/sys/net/ipv4/ip_forward",
        "echo b >/proc/sysrq-trigger",
        "echo 1 >/proc/irq/default_smp_affinity",
        "echo x >/proc/dynamic_debug/control",
        "echo base=0 >/proc/mtrr",
        "echo 0 >/sys/fs/cgroup/cgroup.procs",
        "echo 1 >/sys/fs/cgroup/agent/cgroup.kill",
        "echo max >/sys/fs/cgroup/memory.max",
        "mkdir /sys/fs/cgroup/more",
        "echo 0 >/sys/module/printk/parameters/time",
        "echo offline >/sys/devices/system/memory/memory0/state",
        "echo mem >/sys/power/state",
    ],
)
def test_it_changes_nothing_of_the_kernels(machine: Utility, user: tuple[int, int], attack: str) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            place = attack.rsplit(">", maxsplit=1)[-1].rsplit(maxsplit=1)[-1]
            look = f"test ! -r {place} || head -n1 {place}"
            before = await sh(machine.agent, look, privileged=True)
            said = await sh(box, attack, user=user)
            assert said.status != 0, said
            assert (await sh(machine.agent, look, privileged=True)).out == before.out
            assert await prints(box, "echo there") == "there\n"

    machine.run(main())


@users
def test_what_the_kernel_shows_to_root_alone_is_not_to_be_read(
    machine: Utility, user: tuple[int, int]
) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            told = (
                "kcore kmsg keys key-users kpagecount kpageflags slabinfo vmallocinfo timer_list pagetypeinfo"
            )
            for name in told.split():
                assert (await sh(box, f"head -c1 /proc/{name} | wc -c", user=user)).out == "0\n", name
            hidden = "ls -A /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v : | grep ."
            assert (await sh(box, hidden, user=user)).status != 0
            readable = (
                "for f in /proc/[a-z]*; do test -f $f && test -r $f && stat -c %a $f; done | grep -v '[4-7]$'"
            )
            assert (await sh(box, readable, user=user)).status != 0
            assert (await sh(box, "dmesg", user=user)).status != 0

    machine.run(main())


@users
@pytest.mark.parametrize(
    "attack",
    [
        "mount -t tmpfs none /tmp",
        "mount -t proc none /tmp",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "umount -l /proc/kcore",
        "umount -l /",
        "chroot /tmp /bin/sh -c :",
        "pivot_root /tmp /tmp",
        "hostname other",
        "date -s @0 >/dev/null; test $(date +%s) -lt 1000",
        "nsenter -t 1 -m -p true",
        "unshare -m true",
        "swapon /bin/busybox",
        "reboot -f",
        "insmod /bin/busybox",
        "ip link set lo down",
        "renice -n -5 $$",
    ],
)
def test_it_has_none_of_roots_powers(machine: Utility, user: tuple[int, int], attack: str) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            said = await sh(box, attack, user=user)
            assert said.status != 0, said

    machine.run(main())


def test_a_user_namespace_uncovers_nothing(machine: Utility) -> None:
    """There it has every capability, over a copy of the mounts that hold together."""

    async def main() -> None:
        attacks = (
            "umount -l / && ls / | grep agent",
            "umount -l /proc/kcore && test -s /proc/kcore",
            "umount /proc/sys && echo x >/proc/sys/kernel/hostname",
            "mkdir /tmp/p && mount -t proc none /tmp/p && echo b >/tmp/p/sysrq-trigger",
            "mkdir /tmp/s && mount -t sysfs none /tmp/s",
            "mount -o remount,rw,bind /sys",
            "mkdir /tmp/r && chroot /tmp/r /bin/sh -c :; mkdir /tmp/x && ls /../../container",
        )
        async with machine.container("box") as box:
            alive = "unshare -rm sh -c 'mkdir /tmp/t && mount -t tmpfs none /tmp/t && echo inside'"
            assert (await sh(box, alive, user=ROOT)).status != 0, "which root would need a capability for"
            assert await prints(box, alive, user=USER) == "inside\n", "the attacks are tried there"
            for attack in attacks:
                said = await sh(box, f"unshare -rm sh -c '{attack}'", user=USER)
                assert said.status != 0, (attack, said)

    machine.run(main())


@users
def test_nothing_of_the_machine_has_a_name(machine: Utility, user: tuple[int, int]) -> None:
    async def main() -> None:
        async with machine.container("box") as box:
            names = set((await prints(box, "ls -A /; ls -A /../..", user=user)).split())
            assert names == {"bin", "dev", "etc", "home", "proc", "sys", "tmp"}
            shown = await prints(box, "cat /proc/self/mountinfo", user=user)
            assert {line.split()[4] for line in shown.splitlines()} >= {"/", "/proc", "/sys", "/dev"}
            assert "/container/private" not in shown and "virtio" not in shown
            said = await execute(box, "/bin/cat", "/proc/self/environ", user=user)
            assert said.out == "PATH=/bin\0"

    machine.run(main())


@users
def test_what_is_private_to_the_agent_is_out_of_reach(machine: Utility, user: tuple[int, int]) -> None:
    """Root in here owns what root has made: a folder of mode 0700 would keep nobody out."""

    async def main() -> None:
        private = {"": 0o700, "rw": 0o700}
        async with machine.container("box") as box:
            await box.agent.put(GuestFiles("/run/mxc"), iter([archive_of(private)]))
            await box.agent.mount(
                GuestMount("/run/mxc/rw", "", "tmpfs", MountFlag.NO_SUID | MountFlag.NO_DEV)
            )
            await box.agent.put(
                GuestFiles("/run/mxc/rw/0", owner=user), iter([archive_of({"": 0o755, "d": 0o755})])
            )
            flags = MountFlag.BIND | MountFlag.NO_SUID | MountFlag.NO_DEV
            await box.agent.mount(GuestMount("/granted", "/run/mxc/rw/0", flags=flags))
            assert await prints(box, "ls /granted", user=user) == "d\n"
            assert (await sh(box, "ls /run/mxc || ls /container/private", user=user)).status != 0
            assert (await sh(box, "mv /granted /moved || rm -r /granted", user=user)).status != 0
            assert await prints(box, "ls /granted/.. | grep -c rw || :", user=user) == "0\n"

    machine.run(main())


def test_two_containers_share_no_memory_names_or_queues(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("box") as one, machine.container("box") as two:
            for link in ("mnt", "pid", "ipc", "uts"):
                read = f"readlink /proc/self/ns/{link}"
                spaces = {await prints(where, read) for where in (one, two, machine.agent)}
                assert len(spaces) == 3, link
            assert (await prints(one, "cat /proc/self/cgroup")) != (
                await prints(two, "cat /proc/self/cgroup")
            )

    machine.run(main())


def test_a_storm_of_processes_and_memory_is_its_own(machine: Utility) -> None:
    async def main() -> None:
        limits = (("pids.max", "64"), ("memory.max", str(24 << 20)))
        storm = "f() { f | f & }; f; head -c 100000000 /dev/zero | tail -c 90000000 >/dev/null"
        async with machine.container("box", cgroup=limits) as box, machine.container("box") as neighbour:
            await started(box, "/bin/sh", "-c", storm)
            for _ in range(3):
                assert await prints(neighbour, "echo unharmed") == "unharmed\n"
            await box.end()
            assert await prints(neighbour, "echo unharmed") == "unharmed\n"

    machine.run(main())
