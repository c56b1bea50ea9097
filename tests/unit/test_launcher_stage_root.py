"""The root of a container in the stage: an image below, memory above it, their ids translated. Needs root."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.inside.protocol import ContainerIds, StageEntry, StageRoot, Step
from tests.unit.launching import Finished, run_outside

pytestmark = [
    pytest.mark.backend("lxc"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts: run as root"),
]
ROOT, WORKLOAD = 61997, 61998
MIB = 1 << 20
FILE, FOLDER, LINK = stat.S_IFREG | 0o444, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one: files of three owners, links, a file with three names, folders full and empty."""
    tree = tmp_path_factory.mktemp("image") / "tree"
    for folder in ("etc", "usr/bin", "usr/share/doc", "usr/lib", "opt", "var/tmp"):
        (tree / folder).mkdir(parents=True)
    for file in (
        "etc/passwd",
        "etc/closed",
        "usr/bin/tool",
        "usr/share/doc/text",
        "usr/lib/own",
        "usr/lib/other",
    ):
        (tree / file).write_text(f"{file} of the image\n")
    (tree / "bin").symlink_to("usr/bin")
    (tree / "usr/bin/link").symlink_to("tool")
    (tree / "usr/bin/far").symlink_to("../share/doc/text")
    (tree / "usr/bin/absolute").symlink_to("/usr/share/doc/text")
    (tree / "usr/lib/of-each").symlink_to("../../proc/self/mounts")
    os.link(tree / "usr/bin/tool", tree / "usr/bin/twin")
    os.link(tree / "usr/bin/tool", tree / "usr/share/doc/third")
    os.chown(tree / "usr/lib/own", 1000, 1000)
    os.chown(tree / "usr/lib/other", 5, 5)
    (tree / "etc/closed").chmod(0o600)
    (tree / "var/tmp").chmod(0o1777)
    made = tree.parent / "rootfs.erofs"
    subprocess.run(["mkfs.erofs", made, tree], check=True, stdout=subprocess.DEVNULL)
    return made


class Stage:
    """A stage directory; what is run in it finds the container's root at ``root``."""

    def __init__(self, directory: Path, image: Path) -> None:
        self.directory = directory
        self.image = image

    def run(
        self,
        script: str,
        *,
        hidden: tuple[str, ...] = (),
        entries: tuple[StageEntry, ...] = (),
        size: int = 64 * MIB,
        as_workload: bool = False,
        image: Path | None = None,
        wrapper: tuple[str, ...] = (),
    ) -> Finished:
        fd = os.open(image or self.image, os.O_RDONLY | os.O_CLOEXEC)
        root = StageRoot(
            fd, size, ContainerIds(0, ROOT, ROOT), ContainerIds(1000, WORKLOAD, WORKLOAD), hidden, entries
        )
        try:
            return run_outside(
                "/bin/bash", "-c", f"cd {self.directory}; {script}", stage=str(self.directory), root=root,
                identity=(WORKLOAD, WORKLOAD) if as_workload else None, pass_fds=(fd,), wrapper=wrapper,
            )  # fmt: skip
        finally:
            os.close(fd)

    def read(self, *names: str, hidden: tuple[str, ...]) -> list[str]:
        """Those of the names at which the workload can read or list something."""
        look = 'for n in {}; do cat "root$n" 2>/dev/null | grep -q . && echo "$n"; done; exit 0'
        run = self.run(look.format(" ".join(names)), hidden=hidden, as_workload=True)
        assert run.exit_code == 0, run
        return run.stdout.decode().split()


@pytest.fixture
def stage(tmp_path: Path, image: Path) -> Iterator[Stage]:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    directory = tmp_path / "stage"
    directory.mkdir()
    yield Stage(directory, image)
    assert list(directory.iterdir()) == []
    left = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line]
    assert left == []
    assert f"{image}\n" not in loops()


def loops() -> set[str]:
    """Images that loop devices have."""
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return {file.read_text() for file in files}


def test_the_image_is_the_containers_and_its_users_are_two_of_the_hosts(stage: Stage) -> None:
    run = stage.run("cd root; stat -c '%n %u:%g' . etc usr/bin/tool usr/lib/own usr/lib/other")
    assert run.stdout.decode().splitlines() == [
        f". {ROOT}:{ROOT}",
        f"etc {ROOT}:{ROOT}",
        f"usr/bin/tool {ROOT}:{ROOT}",
        f"usr/lib/own {WORKLOAD}:{WORKLOAD}",
        "usr/lib/other 65534:65534",
    ]


def test_what_the_containers_root_writes_is_its_own_and_the_image_stays_what_it_is(stage: Stage) -> None:
    before = stage.image.read_bytes()
    as_root = f"setpriv --reuid={ROOT} --regid={ROOT} --clear-groups sh -c"
    run = stage.run(
        f"cd root; {as_root} 'echo more >> etc/passwd; rm usr/bin/link; mkdir new; cat etc/closed';"
        " cat etc/passwd; stat -c '%n %u' etc/passwd new; ls usr/bin"
    )
    assert run.stdout.decode().splitlines() == [
        "etc/closed of the image",
        *("etc/passwd of the image", "more", f"etc/passwd {ROOT}", f"new {ROOT}"),
        *("absolute", "far", "tool", "twin"),
    ]
    assert stage.image.read_bytes() == before


def test_the_workload_writes_where_everybody_may_and_nowhere_else(stage: Stage) -> None:
    script = (
        "for d in root root/etc root/usr/bin root/opt root/var/tmp tmp shm . image memory memory/upper;"
        " do echo x > $d/x && echo $d; done;"
        " echo x >> root/usr/lib/own && echo own; cat root/etc/closed; ls memory; cat memory/upper/var/tmp/x"
    )
    run = stage.run(script, as_workload=True)
    assert run.stdout.decode().split() == ["root/var/tmp", "tmp", "shm", "own"]


def test_only_the_containers_root_takes_away_what_others_have_in_tmp(stage: Stage) -> None:
    run = stage.run("stat -c '%n %a %u' tmp shm")
    assert run.stdout.decode().splitlines() == [f"tmp 1777 {ROOT}", f"shm 1777 {ROOT}"]


@pytest.mark.parametrize("place", ["root/var/tmp", "tmp", "shm"])
def test_each_of_them_takes_as_much_as_was_said(stage: Stage, place: str) -> None:
    fill = f"head -c {3 * MIB} /dev/zero > {place}/a && echo fits; head -c {2 * MIB} /dev/zero > {place}/b"
    run = stage.run(fill, size=4 * MIB, as_workload=True)
    assert run.stdout == b"fits\n"
    assert b"No space left" in run.stderr


def test_nothing_of_it_grants_rights_or_devices(stage: Stage) -> None:
    run = stage.run(f"grep ' {stage.directory}/' /proc/self/mountinfo")
    options = [line.split()[5].split(",") for line in run.stdout.decode().splitlines()]
    assert len(options) == 6  # the image twice, without and with its ids; memory, tmp, shm, root
    assert all({"nosuid", "nodev"} <= set(names) for names in options)
    assert not [line for line in run.stdout.decode().splitlines() if " shared:" in line]


TOOL = ("/usr/bin/tool", "/usr/bin/link", "/usr/bin/twin", "/usr/share/doc/third", "/bin/tool")
TEXT = ("/usr/share/doc/text", "/usr/bin/far")


@pytest.mark.parametrize(
    ("denied", "names"),
    [
        (("/usr/bin/tool",), TOOL),
        (("/usr/bin/link",), TOOL),
        (("/bin/twin",), TOOL),
        (("/usr/share/doc/third", "/usr/bin/tool"), TOOL),
        (("/usr/bin/far",), TEXT),
        (("/usr/bin/absolute",), TEXT),
        (("/usr/share",), (*TEXT, *TOOL)),  # third is in it, hence so is tool
        (("/usr/share/doc/..",), (*TEXT, *TOOL)),
        (("/usr/share/doc", "/usr/share"), TEXT),
        (("/bin",), TOOL),
    ],
)
def test_what_is_hidden_is_hidden_under_each_of_its_names(
    stage: Stage, denied: tuple[str, ...], names: tuple[str, ...]
) -> None:
    others = ("/etc/passwd", "/usr/lib/own")
    assert set(stage.read(*names, *others, hidden=())) == {*names, *others}
    assert stage.read(*names, *others, hidden=denied) == list(others)


def test_what_is_hidden_is_found_while_others_mount(stage: Stage) -> None:
    """The kernel gives up a ``..`` then, and the start failed."""
    churn = "while mount -t tmpfs none /mnt && umount /mnt; do :; done"
    with subprocess.Popen(["unshare", "--mount", "sh", "-c", churn]) as mounting:
        try:
            for _ in range(40):
                assert stage.read(*TEXT, "/etc/passwd", hidden=("/usr/bin/far",)) == ["/etc/passwd"]
            assert mounting.poll() is None
        finally:
            mounting.kill()


@pytest.mark.parametrize("denied", ["/nothing/there", "/etc/passwd/below", "/opt/x", "/../nowhere"])
def test_what_nothing_has_is_no_hindrance(stage: Stage, denied: str) -> None:
    assert stage.read(*TOOL, hidden=(denied,)) == list(TOOL)


def test_what_cannot_be_looked_up_is_named_by_its_place(stage: Stage) -> None:
    run = stage.run("echo ran", hidden=("/usr/bin/tool", "relative"))
    assert (run.failure.step, run.failure.index, run.failure.errno) == (Step.HIDE, 1, errno.EINVAL)
    assert run.stdout == b""


def test_what_each_process_has_for_itself_cannot_be_hidden(stage: Stage) -> None:
    run = stage.run("echo ran", hidden=("/usr/bin/tool", "/usr/lib/of-each"))
    assert (run.failure.step, run.failure.index, run.failure.errno) == (Step.HIDE, 1, errno.EOPNOTSUPP)
    assert run.stdout == b""


def test_processes_are_not_where_the_container_will_have_its_own(stage: Stage) -> None:
    run = stage.run("ls -A root/proc | wc -l", hidden=("/usr/bin/tool",))
    assert run.stdout == b"0\n"


def test_what_covers_a_folder_is_passed_by_all_and_filled_by_the_containers_root(stage: Stage) -> None:
    share = "root/usr/share"
    script = f"cat {share}/way/in; ls {share}; echo x > {share}/x; stat -c '%a %u' {share}"
    entry = StageEntry("root/usr/share/way/in", FILE, "made\n")
    run = stage.run(script, hidden=("/usr/share",), entries=(entry,), as_workload=True)
    assert run.stdout.decode().splitlines() == ["made", f"111 {ROOT}"]
    assert run.stderr.count(b"Permission denied") == 2


ENTRIES = {
    "file": (StageEntry("root/etc/new", FILE, "content"), "regular file 444"),
    "file over a file": (StageEntry("root/etc/passwd", FILE, "content"), "regular file 444"),
    "file over a link": (StageEntry("root/usr/bin/link", FILE, "content"), "regular file 444"),
    "file over an empty folder": (StageEntry("root/opt", FILE, "content"), "regular file 444"),
    "file in a folder to be made": (StageEntry("root/a/b/c", FILE, "content"), "regular file 444"),
    "file in memory": (StageEntry("tmp/a/b", FILE, "content"), "regular file 444"),
    "file without rights": (StageEntry("masks/0", stat.S_IFREG, ""), "regular empty file 0"),
    "link": (StageEntry("root/etc/new", LINK, "/some/where"), "symbolic link 777"),
    "link over a file": (StageEntry("root/etc/passwd", LINK, "x"), "symbolic link 777"),
    "link over a link": (StageEntry("root/bin", LINK, "opt"), "symbolic link 777"),
    "link over an empty folder": (StageEntry("root/opt", LINK, "/srv/opt"), "symbolic link 777"),
    "folder": (StageEntry("root/new", stat.S_IFDIR | 0o111, ""), "directory 111"),
    "folder over a file": (StageEntry("root/etc/passwd", FOLDER, ""), "directory 755"),
    "folder over a link": (StageEntry("root/bin", FOLDER, ""), "directory 755"),
    "folder that is there": (StageEntry("root/var/tmp", FOLDER, ""), "directory 1777"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_what_is_made_replaces_what_the_image_has(stage: Stage, case: str) -> None:
    entry, kind = ENTRIES[case]
    script = f"p={entry.path}; stat -c '%F %a' $p; stat -c %u:%g $p; readlink -n $p || cat $p"
    run = stage.run(script, entries=(entry,))
    assert run.stdout.decode() == f"{kind}\n{ROOT}:{ROOT}\n{entry.content}"


def test_a_replaced_link_leaves_alone_what_it_led_to(stage: Stage) -> None:
    run = stage.run("cat root/usr/bin/tool", entries=(StageEntry("root/usr/bin/link", FILE, "content"),))
    assert run.stdout == b"usr/bin/tool of the image\n"


@pytest.mark.parametrize(
    ("path", "mode", "error"),
    [
        ("root/bin/tool", FILE, errno.ELOOP),
        ("root/bin/new/deep", LINK, errno.ELOOP),
        ("root/usr/bin/far/x", FILE, errno.ELOOP),
        ("root/etc/passwd/x", FILE, errno.ENOTDIR),
        ("root/usr/share", LINK, errno.ENOTEMPTY),
        ("root/usr/share", FILE, errno.ENOTEMPTY),
        ("../escaped", FILE, errno.EXDEV),
        ("root/../../escaped", FOLDER, errno.EXDEV),
    ],
)
def test_what_cannot_be_made_is_named_by_its_place(stage: Stage, path: str, mode: int, error: int) -> None:
    entries = (StageEntry("root/etc/fine", FILE, ""), StageEntry(path, mode, "x"))
    run = stage.run("echo ran", entries=entries)
    assert (run.failure.step, run.failure.index, run.failure.errno) == (Step.ROOT_ENTRY, 1, error)
    assert (run.stdout, run.exit_code) == (b"", 125)
    assert not (stage.directory.parent / "escaped").exists()


def test_no_control_group_is_in_sight_and_the_hosts_stay(stage: Stage) -> None:
    there = set(Path("/sys/fs/cgroup").iterdir())
    assert there
    look = "ls -A /sys/fs/cgroup; grep -c ' /sys/fs/cgroup' /proc/self/mountinfo"
    assert stage.run(look).stdout == b"0\n"
    more = 'mount -t tmpfs one /sys/fs/cgroup; mount -t tmpfs two /sys/fs/cgroup; exec "$@"'
    assert stage.run(look, wrapper=("unshare", "--mount", "sh", "-c", more, "sh")).stdout == b"0\n"
    assert set(Path("/sys/fs/cgroup").iterdir()) == there


def test_an_image_in_memory_is_mounted_by_a_device_that_goes_with_it(stage: Stage) -> None:
    """The kernel mounts no file of a tmpfs as it is: so the older way is taken."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as copy:
        copy.write(stage.image.read_bytes())
        copy.flush()
        run = stage.run(
            f"cat root/etc/passwd; grep ' {stage.directory}/image ' /proc/self/mountinfo",
            image=Path(copy.name),
        )
        assert loops().isdisjoint({f"{copy.name}\n"})
    text, *mounts = run.stdout.decode().splitlines()
    assert text == "etc/passwd of the image"
    assert {mount.rpartition(" - ")[2].split()[1].rstrip("0123456789") for mount in mounts} == {"/dev/loop"}


def test_what_is_no_image_is_told(stage: Stage, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no image" * 4096)
    run = stage.run("echo ran", image=garbage)
    assert (run.failure.step, run.failure.errno) == (Step.ROOT_IMAGE, errno.EINVAL)
    assert run.stdout == b""
