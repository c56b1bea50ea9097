"""An image unpacked by the launcher is what the kernel would mount; what is no image does no harm."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.unit.launching import launcher_path

pytestmark = [
    pytest.mark.backend("lxc"),
    pytest.mark.skipif(shutil.which("mkfs.erofs") is None, reason="apt-get install erofs-utils"),
    pytest.mark.skipif(os.geteuid() != 0, reason="keeping owners takes root"),
]
BLOCK = 4096
SIZES = (0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK - 60, 10 * BLOCK + 17, 1 << 20)


def unpack(image: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return call("unpack", image, folder)


def call(mode: str, first: Path, second: Path | str) -> subprocess.CompletedProcess[str]:
    """The launcher on the host itself, with descriptors of what is there."""
    fds = [os.open(path, os.O_RDONLY) for path in (first, second) if isinstance(path, Path)]
    words = [str(fd) for fd in fds] + ([second] if isinstance(second, str) else [])
    try:
        return subprocess.run(
            [launcher_path(), mode, *words],
            pass_fds=fds, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        for fd in fds:
            os.close(fd)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every size that matters, folders of one and of many blocks, links of both kinds."""
    tree = tmp_path_factory.mktemp("unpack") / "tree"
    tree.mkdir()
    content = random.Random(3).randbytes(max(SIZES))
    for size in SIZES:
        (tree / f"file-{size}").write_bytes(content[:size])
    (tree / "many").mkdir(mode=0o711)
    for number in range(700):
        (tree / "many" / f"{number:03}{'n' * (number % 200)}").write_text(f"{number}\n")
    (tree / "empty").mkdir()
    deep = tree / Path(*"abcdefghijklmnopqrstuvwxyz")
    deep.mkdir(parents=True)
    (deep / "ü ñ\n\t\\").write_text("odd\n")
    (tree / "link").symlink_to("file-1")
    (tree / "long").symlink_to("/" + "/x" * 1500)
    os.link(tree / "file-100", tree / "many" / "twin")
    os.link(tree / "file-100", deep / "third")
    (tree / "closed").write_text("closed\n")
    (tree / "closed").chmod(0o600)
    (tree / "set-id").write_text("#!/bin/sh\n")
    (tree / "set-id").chmod(0o6755)
    (tree / "sticky").mkdir()
    (tree / "sticky").chmod(0o1777)
    (tree / "workloads").write_text("mine\n")
    os.chown(tree / "workloads", 1000, 1000)
    (tree / "others").write_text("other\n")
    os.chown(tree / "others", 5, 1000)
    os.mkfifo(tree / "pipe")
    os.mknod(tree / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.setxattr(tree / "closed", "user.some", b"attribute" * 20)
    return tree


def image_of(tree: Path, *options: str) -> Path:
    made = tree.parent / f"image{''.join(options)}.erofs"
    subprocess.run(["mkfs.erofs", *options, made, tree], check=True, stdout=subprocess.DEVNULL)
    return made


def seen(top: Path) -> dict[str, tuple[int, int, int, int, int, bytes]]:
    """Everything that is told of what lies below a folder."""
    found: dict[str, tuple[int, int, int, int, int, bytes]] = {}
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            path = Path(folder, name)
            status = path.lstat()
            content = b""
            if stat.S_ISLNK(status.st_mode):
                content = os.fsencode(path.readlink())
            elif stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            links = 1 if stat.S_ISDIR(status.st_mode) else status.st_nlink
            key = str(path.relative_to(top))
            found[key] = (status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime), links, content)
    return found


@pytest.mark.parametrize("options", [(), ("-x-1",), ("-Eforce-inode-extended",), ("-T946684800",)])
def test_it_is_what_the_image_was_made_of(tree: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    done = unpack(image_of(tree, *options), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    wanted, got = seen(tree), seen(tmp_path / "root")
    left_out = {"pipe", "device"}
    assert set(wanted) - set(got) == left_out
    assert not set(got) - set(wanted)
    for name, (mode, uid, gid, time, links, content) in wanted.items():
        if name in left_out:
            continue
        owner = (uid if uid == 1000 else 0, gid if gid == 1000 else 0)
        kept = mode & ~(stat.S_ISUID | stat.S_ISGID)
        assert (got[name][0], got[name][1:3], *got[name][4:]) == (kept, owner, links, content), name
        if "-T946684800" in options:
            assert got[name][3] == 946684800
        elif options == ("-Eforce-inode-extended",):
            assert got[name][3] == time
    names = ["file-100", "many/twin", "/".join("abcdefghijklmnopqrstuvwxyz") + "/third"]
    assert len({(tmp_path / "root" / name).stat().st_ino for name in names}) == 1


def test_what_was_unpacked_is_removed_whole(tree: Path, tmp_path: Path) -> None:
    assert unpack(image_of(tree), tmp_path).returncode == 0
    (tmp_path / "stays").write_text("stays\n")
    (tmp_path / "root" / "away").symlink_to(tmp_path / "stays")
    (tmp_path / "root" / "far").symlink_to(tree)
    assert call("remove", tmp_path, "root").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["stays"]
    assert (tree / "file-1").exists()
    assert call("remove", tmp_path, "root").returncode == 0, "what is gone is gone"


def test_a_compressed_image_is_refused_by_name(tree: Path, tmp_path: Path) -> None:
    (tree / "zeros").write_bytes(bytes(1 << 20))
    image = image_of(tree, "-zlz4")
    (tree / "zeros").unlink()
    done = unpack(image, tmp_path)
    assert done.returncode == 125
    assert done.stderr in ("Not supported\n", "Operation not supported\n")


def test_where_something_is_already_nothing_is_changed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    done = unpack(image_of(tree), tmp_path)
    assert (done.returncode, done.stderr) == (125, "File exists\n")
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"x", bytes(1024), b"no image" * 4096])
def test_what_is_no_image_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image").write_bytes(content)
    done = unpack(tmp_path / "image", tmp_path)
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "root").exists()


def test_a_damaged_image_ends_in_an_error_and_stays_in_its_folder(tmp_path: Path, soak: bool) -> None:
    """Whatever its bytes are, the launcher neither crashes nor writes anywhere else."""
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "file").write_text("content\n" * 700)
    (tree / "link").symlink_to("folder/file")
    os.link(tree / "folder" / "file", tree / "twin")
    whole = image_of(tree).read_bytes()
    dice = random.Random(5)
    place = tmp_path / "place"
    for _ in range(2000 if soak else 200):
        damaged = bytearray(whole[: dice.randrange(1024, len(whole))] if dice.random() < 0.2 else whole)
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(1024, min(len(damaged), 3 * BLOCK)) if len(damaged) > 1024 else 0
            if at:
                damaged[at] = dice.choice([0, 1, 0x2E, 0x2F, 0x7F, 0xFF, dice.randrange(256)])
        (tmp_path / "image").write_bytes(damaged)
        place.mkdir()
        done = unpack(tmp_path / "image", place)
        assert done.returncode in (0, 125), done
        assert {path.name for path in tmp_path.iterdir()} <= {"tree", "image", "image.erofs", "place"}
        assert {path.name for path in place.iterdir()} <= {"root"}
        shutil.rmtree(place)
