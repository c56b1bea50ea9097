"""What a hostile image can do: wherever the agent makes something in it, there may be a link elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.agent.container import start_container
from backends.agent.errors import GuestRefused
from backends.inside.agent_protocol import GuestFiles, GuestHide, GuestMount, MountFlag, Step
from tests.containers import OWN_DEVICES, Utility, busybox_tree, execute, pack, prints, sh, utility
from tests.unit.guest_files import archive_of

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="an image with devices is root's to make"),
    pytest.mark.backend("vm"),
    pytest.mark.backend("microvm"),
]

ROOT, USER = (0, 0), (1000, 1000)
BLOCK_DEVICE, CONSOLE = os.makedev(254, 0), os.makedev(5, 1)


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
    "links": _links,
    "files": _files,
    "folder": _folder_of_hosts,
    "etclink": _link_of_etc,
    "etcfile": _file_of_etc,
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Utility]:
    folder = tmp_path_factory.mktemp("hostile-images")
    disks: dict[str, Path] = {}
    for name, change in IMAGES.items():
        tree = busybox_tree(folder / name)
        change(tree)
        disks[name] = pack(tree, folder / f"{name}.erofs")
    with utility(tmp_path_factory.getbasetemp() / "utility-templates", disks) as made:
        yield made


def test_an_image_of_links_is_given_folders(machine: Utility) -> None:
    async def main() -> None:
        async with machine.container("links") as box:
            assert await prints(box, "cat /victim; ls /tmp") == "untouched\n"
            names = "/proc /sys /dev /etc/hosts /etc/hostname /etc/resolv.conf"
            kinds = f"for n in {names}; do test -L $n && echo $n; done; :"
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
            said = await execute(box, "/bin/self", "--container")
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
