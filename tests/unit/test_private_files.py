"""Trees of a sandbox's own, packed and made again: the same, whatever a workload called and made of them."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import LaunchFailed
from backends.launched.private_files import pack
from backends.launched.private_restore import restore

NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: not {0, 47} & set(name) and name.strip(b"."))
MODES = st.integers(0, 0o7777)
KINDS = st.sampled_from(["file", "folder", "link", "pipe", "name"])
STEPS = st.lists(st.tuples(KINDS, NAMES, MODES, st.binary(max_size=40), st.integers(0, 9)), max_size=12)
Step = tuple[str, bytes, int, bytes, int]


def make(top: Path, steps: list[Step]) -> None:
    """Each step in one of the folders that are there by then."""
    folders, files = [top], list[Path]()
    modes: list[tuple[Path, int]] = []
    for kind, name, mode, content, choice in steps:
        path = folders[choice % len(folders)] / os.fsdecode(name)
        if os.path.lexists(path):
            continue
        if kind == "link":
            path.symlink_to(os.fsdecode(content.replace(b"\0", b"x") or b"x"))
            continue
        if kind == "name" and files:
            path.hardlink_to(files[choice % len(files)])
            continue
        if kind == "folder":
            path.mkdir()
            folders.append(path)
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(content)
            os.truncate(path, len(content) + 100_000 * (choice % 2))
            os.setxattr(path, b"user.of", content)
            files.append(path)
        modes.append((path, mode))
    for path, mode in reversed(modes):
        path.chmod(mode)
        os.utime(path, ns=(mode, 10**18 + mode))


def seen(top: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    names: dict[int, str] = {}
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(top))
        kind = stat.S_IFMT(status.st_mode)
        content: object = b""
        if kind == stat.S_IFLNK:
            content = path.readlink()
        elif kind == stat.S_IFREG:
            content = (path.read_bytes(), os.getxattr(path, "user.of"), status.st_blocks)
        same = names.setdefault(status.st_ino, name)
        found[name] = (status.st_mode, status.st_uid, status.st_mtime_ns, content, same)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="closed folders are looked into")
@settings(max_examples=60)
@given(STEPS)
def test_what_is_packed_is_made_again(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        source, target = Path(folder, "source"), Path(folder, "target")
        source.mkdir()
        target.mkdir()
        make(source, steps)
        expected = seen(source)
        with_source, with_target = os.open(source, os.O_PATH), os.open(target, os.O_PATH)
        file, sockets = pack([("/tmp", with_source)], os.geteuid())
        try:
            restore(file, [("/tmp", with_target)], (os.geteuid(), os.getegid()))
        finally:
            for descriptor in (file, with_source, with_target):
                os.close(descriptor)
        assert sockets == 0
        assert seen(target) == expected == seen(source)


def test_nothing_is_made_through_a_link_that_is_there_already(tmp_path: Path) -> None:
    source, target, outside = tmp_path / "source", tmp_path / "target", tmp_path / "outside"
    for folder in (source / "way", target, outside):
        folder.mkdir(parents=True)
    (source / "way/file").write_text("x")
    (target / "way").symlink_to(outside)
    with_source, with_target = os.open(source, os.O_PATH), os.open(target, os.O_PATH)
    file, _ = pack([("/tmp", with_source)], os.geteuid())
    try:
        with pytest.raises(LaunchFailed) as caught:
            restore(file, [("/tmp", with_target)], (os.geteuid(), os.getegid()))
    finally:
        for descriptor in (file, with_source, with_target):
            os.close(descriptor)
    assert caught.value.problems[0].code == "not_copied"
    assert not list(outside.iterdir())


def test_what_is_too_deep_is_refused(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("x" * 200, dir_fd=here)
        below = os.open("x" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    top = os.open(tmp_path, os.O_PATH)
    with pytest.raises(LaunchFailed, match="too deep"):
        pack([("/tmp", top)], os.geteuid())
    os.close(top)
