"""What a workload in a container can do to its machine, its neighbours and its own agent; what its image can.

The workload is the image's user, which may be root, without capabilities. The image is somebody else's, too:
wherever the agent makes something in it, there may be a link to somewhere else.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.agent.container import start_container
from backends.agent.errors import GuestRefused
from backends.inside.agent_protocol import GuestCommand, GuestFiles, GuestHide, GuestMount, MountFlag, Step
from tests.containers import PATH, Utility, busybox_tree, execute, pack, prints, sh, utility
from tests.unit.guest_files import archive_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="an image with devices is root's to make"),
    pytest.mark.backend("vm"),
    pytest.mark.backend("microvm"),
]

ROOT, USER = (0, 0), (1000, 1000)
users = pytest.mark.parametrize("user", [ROOT, USER], ids=["root", "user"])
BLOCK_DEVICE, CONSOLE = os.makedev(254, 0), os.makedev(5, 1)
OWN_DEVICES = ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]


def _links(tree: Path) -> None:
    """Everything that the agent makes is a link, to what it would harm or give away."""
    (tree / "proc").symlink_to("/etc")
    (tree / "sys").symlink_to("/tmp")
    (tree / "dev").symlink_to("../../../../container")
    (tree / "run").symlink_to("/proc/1/root")
    (tree / "mnt").symlink_to("/proc/sys")
    (tree / "etc/hosts").symlink_to("/victim")
    (tree / "etc/hostname").symlink_to("/../../run/denied")
    (tree / "etc/resolv.conf").symlink_to("/proc/self/root/victim")
    (tree / "victim").write_text("untouched\n")
    (tree / "bin/self").symlink_to("/proc/self/exe")


def _files(tree: Path) -> None:
    for name in ("proc", "sys", "run"):
        (tree / name).write_text("no folder\n")
    os.mkfifo(tree / "dev")
    os.mknod(tree / "bin/disk", stat.S_IFBLK | 0o666, BLOCK_DEVICE)
    os.mknod(tree / "bin/console", stat.S_IFCHR | 0o666, CONSOLE)
    (tree / "bin/busybox").chmod(0o4755)


def _folder_of_hosts(tree: Path) -> None:
    (tree / "etc/hosts/more").mkdir(parents=True)


def _link_of_etc(tree: Path) -> None:
    (tree / "etc").rmdir()
    (tree / "etc").symlink_to("/tmp")


def _file_of_etc(tree: Path) -> None:
    (tree / "etc").rmdir()
    (tree / "etc").write_text("")


IMAGES: dict[str, Callable[[Path], object]] = {
    "box": lambda tree: (tree / "etc/secret").write_text("of the image\n"),
    "links": _links,
    "files": _files,
    "folder": _folder_of_hosts,
    "etclink": _link_of_etc,
    "etcfile": _file_of_etc,
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Utility]:
    folder = tmp_path_factory.mktemp("hostile")
    disks: dict[str, Path] = {}
    for name, change in IMAGES.items():
        tree = busybox_tree(folder / name)
        change(tree)
        disks[name] = pack(tree, folder / f"{name}.erofs")
    with utility(folder, disks) as made:
        yield made


@users
def test_it_sees_its_own_processes_and_no_others(machine: Utility, user: tuple[int, int]) -> None:
    async def main() -> None:
        async with machine.container("box") as box, machine.container("box") as neighbour:
            sleep = GuestCommand(("/bin/sleep", "31415"), PATH, user=user)
            await neighbour.agent.execute(sleep, stdin=None, stdout=len, stderr=len)
            await machine.agent.execute(sleep, stdin=None, stdout=len, stderr=len)
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
def test_it_cannot_look_into_a_process_of_its_agents(machine: Utility, user: tuple[int, int]) -> None:
    """One that is a way to a port runs as the workload, and executes nothing."""

    async def main() -> None:
        async with machine.container("box") as box:
            listening = GuestCommand(
                ("/bin/nc", "-l", "-p", "4100", "-e", "/bin/sleep", "60"), PATH, user=user
            )
            await box.agent.execute(listening, stdin=None, stdout=len, stderr=len)
            await sh(box, "until netstat -ltn | grep -q :4100; do sleep 0.1; done")
            source, end = os.pipe()
            try:
                way = await box.agent.execute(
                    GuestCommand(("way",), PATH, user=user, port=4100), stdin=source, stdout=len, stderr=len
                )
                agents = (
                    await prints(box, "grep -l -e [-]-container /proc/[0-9]*/cmdline", user=user)
                ).split()
                assert f"/proc/{way.pid}/cmdline" in agents and len(agents) == 2
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
            environment = GuestCommand(("/bin/cat", "/proc/self/environ"), PATH, user=user)
            assert (await execute(box.agent, environment)).out == "PATH=/bin\0"

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


def test_an_image_of_links_is_given_folders(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("links") as box:
            assert await prints(box, "cat /victim; ls /tmp") == "untouched\n"
            kinds = "for n in proc sys dev etc/hosts etc/hostname etc/resolv.conf; do test -L /$n && echo $n; done; :"
            assert await prints(box, kinds) == ""
            assert await prints(box, "cat /etc/hostname; test -e /proc/self/stat; echo $?") == "box\n0\n"
            assert (await prints(box, "ls /dev")).split() == OWN_DEVICES
        assert await prints(machine.agent, "ls -A /container") == ""
        assert (await sh(machine.agent, "cat /run/denied /victim")).out == ""

    machine.run(main())


def test_no_link_of_an_image_leads_a_mount_or_a_file_astray(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("links") as box:
            flags = MountFlag.NO_SUID | MountFlag.NO_DEV
            for target in ("/mnt", "/mnt/kernel", "/run/x"):
                with pytest.raises(GuestRefused) as caught:
                    await box.agent.mount(GuestMount(target, "", "tmpfs", flags))
                assert (caught.value.step, caught.value.errno) == (Step.MOUNT_POINT, errno.ELOOP)
                with pytest.raises(GuestRefused):
                    await box.agent.put(GuestFiles(target), iter([archive_of({"x": 0o755})]))
            with pytest.raises(GuestRefused):
                await box.agent.mount(GuestMount("/bound", "/mnt", flags=MountFlag.BIND))
            await box.agent.put(
                GuestFiles("/run/mxc"), iter([archive_of({"": 0o700})])
            )  # is not in that /run
            with pytest.raises(GuestRefused):  # through /proc/1, a name means something else to each process
                await box.agent.hide(GuestHide(("/run/victim",)))
            await box.agent.hide(GuestHide(("/victim",)))
            assert (await sh(box, "cat /victim")).out == ""

    machine.run(main())


def test_a_program_that_is_a_link_to_the_agent_has_nothing_of_it(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("links") as box:
            said = await execute(box.agent, GuestCommand(("/bin/self", "--container"), PATH, user=ROOT))
            assert said.status == 1 and "usage" in said.err
            # Root's own copy of it, were it a file of the machine's, could be written to through any name.
            changed = await sh(
                box, "echo x >>/proc/1/exe; dd if=/dev/zero of=/proc/1/exe bs=1", privileged=True
            )
            assert changed.status != 0
        async with machine.container("links") as box:
            assert await prints(box, "echo works") == "works\n"

    machine.run(main())


def test_files_where_folders_should_be_are_replaced(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("files") as box:
            assert (
                await prints(box, "test -d /proc/self && test -d /sys/class && test -c /dev/null && echo all")
                == "all\n"
            )
            for attack in ("head -c1 /bin/disk", "echo x >/bin/console"):
                for user in (ROOT, USER):
                    assert (await sh(box, attack, user=user)).status != 0
            assert await prints(box, "busybox id -u", user=USER) == "1000\n", "set-user-id means nothing"

    machine.run(main())


@pytest.mark.parametrize(
    ("disk", "number", "subject"),
    [
        ("folder", errno.EISDIR, "/etc/hosts"),
        ("etclink", errno.ELOOP, "/etc"),
        ("etcfile", errno.ENOTDIR, "/etc"),
    ],
)
def test_what_cannot_be_replaced_is_refused(machine: Utility, disk: str, number: int, subject: str) -> None:
    async def main() -> None:
        with pytest.raises(GuestRefused) as caught:
            await start_container(machine.agent, machine.spec(disk))
        assert (caught.value.step, caught.value.errno) == (Step.MOUNT_POINT, number)
        assert caught.value.subject == subject

    machine.run(main())


def test_a_storm_of_processes_and_memory_is_its_own(machine: Utility) -> None:
    async def main() -> None:
        limits = (("pids.max", "64"), ("memory.max", str(24 << 20)))
        storm = "f() { f | f & }; f; head -c 100000000 /dev/zero | tail -c 90000000 >/dev/null"
        async with machine.container("box", cgroup=limits) as box, machine.container("box") as neighbour:
            command = GuestCommand(("/bin/sh", "-c", storm), PATH, user=ROOT)
            await box.agent.execute(command, stdin=None, stdout=len, stderr=len)
            for _ in range(3):
                assert await prints(neighbour, "echo unharmed") == "unharmed\n"
            await box.end()
            assert await prints(neighbour, "echo unharmed") == "unharmed\n"

    machine.run(main())
