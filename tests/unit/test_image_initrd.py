"""The initrd: read back by an independent program, and the same bytes for the same content."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.guest_etc import ETC_FILES
from vm_images.initrd import Entry, cpio, initrd_entries
from vm_images.recipe import Format, OwnFile

MODULES = (("virtio.ko", b"one"), ("virtio_mmio.ko", b"two"))


def read_back(archive: bytes, folder: Path) -> dict[str, bytes]:
    """Unpack by busybox; files by their paths."""
    script = "cd $0 && exec busybox cpio -idm 2>/dev/null"
    subprocess.run(["sh", "-c", script, folder], input=archive, check=True)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_agent_finds_what_it_expects(tmp_path: Path) -> None:
    entries = initrd_entries(agent=b"agent", modules=MODULES, format=Format.EROFS, zygote="python")
    found = read_back(cpio(entry for entry in entries if entry.path != "dev/console"), tmp_path)
    assert found["init"] == b"agent" and os.access(tmp_path / "init", os.X_OK)
    assert found["modules"] == b"/m/virtio.ko\n/m/virtio_mmio.ko\n"
    assert (found["m/virtio.ko"], found["m/virtio_mmio.ko"]) == (b"one", b"two")
    assert found["agent.conf"] == b"root erofs\nzygote /usr/bin/python3 /usr/lib/mxc-ops/zygote.py\n"
    assert all((tmp_path / name).is_dir() for name in ("dev", "proc", "sys", "run", "tmp"))


def test_a_node_is_a_spare_with_our_add_on_before_it_and_python_a_zygote() -> None:
    [conf] = [
        entry.content.decode()
        for entry in initrd_entries(agent=b"", modules=(), format=Format.EROFS, zygote="node")
        if entry.path == "agent.conf"
    ]
    kind, preloaded, interpreter, *flags, script = conf.splitlines()[1].split()
    assert (kind, interpreter, script) == ("spare", "/usr/bin/node", "/usr/lib/mxc-ops/node.cjs")
    assert preloaded == "LD_PRELOAD=/usr/lib/mxc-ops/node_addon.node"
    assert all(flag.startswith("--") for flag in flags)


def test_without_a_root_file_system_there_are_busybox_and_the_users_files(tmp_path: Path) -> None:
    entries = initrd_entries(
        agent=b"agent",
        modules=(),
        format=Format.NONE,
        busybox=b"box",
        applets=("busybox", "ls", "sh"),
        files=(OwnFile("/opt/a/b", b"mine", 0o600),),
        etc=ETC_FILES,
    )
    found = read_back(cpio(entry for entry in entries if entry.path != "dev/console"), tmp_path)
    assert found["agent.conf"] == b"root none\n"
    assert (tmp_path / "bin/sh").readlink() == Path("busybox") and found["bin/busybox"] == b"box"
    assert not (tmp_path / "bin/busybox").is_symlink()
    assert found["etc/passwd"].decode() == ETC_FILES["/etc/passwd"]
    assert found["opt/a/b"] == b"mine" and (tmp_path / "opt/a/b").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to make a device")
def test_the_console_is_there_before_anything_is_mounted(tmp_path: Path) -> None:
    read_back(cpio(initrd_entries(agent=b"", modules=(), format=Format.NONE)), tmp_path)
    console = (tmp_path / "dev/console").stat()
    assert console.st_rdev == os.makedev(5, 1)


def test_directories_come_before_what_lies_in_them_and_names_are_sorted() -> None:
    entries = initrd_entries(agent=b"", modules=MODULES, format=Format.NONE, etc=ETC_FILES)
    seen: set[str] = set()
    for entry in entries:
        parent = entry.path.rpartition("/")[0]
        assert not parent or parent in seen
        assert entry.path not in seen
        seen.add(entry.path)


@given(st.lists(st.binary(max_size=9), max_size=5), st.integers())
def test_the_bytes_depend_on_the_content_and_on_nothing_else(contents: list[bytes], seed: int) -> None:
    files = [OwnFile(f"/etc/f{number}", content) for number, content in enumerate(contents)]
    shuffled = files[:]
    random.Random(seed).shuffle(shuffled)

    def build(some: list[OwnFile]) -> bytes:
        return cpio(initrd_entries(agent=b"a", modules=MODULES, format=Format.NONE, files=some))

    assert build(files) == build(shuffled)
    assert len(build(files)) % 512 == 0


def test_an_archive_carries_no_time_and_no_owner() -> None:
    archive = cpio([Entry("a", 0o100644, b"x")])
    assert archive[:6] == b"070701"
    inode, mode, uid, gid, links, mtime, size = (int(archive[6 + 8 * n : 14 + 8 * n], 16) for n in range(7))
    assert (inode, mode, uid, gid, links, mtime, size) == (1, 0o100644, 0, 0, 1, 0, 1)
