"""What observation says about real paths."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backends.base import Grant, HostPath, ObjectKind, PathState, SymlinkHop
from backends.linux.objects import calling_user, observe_paths
from tests.unit.observing import DENIED, RO, RW, observe, resolve


def only(path: str | Path) -> HostPath:
    [found] = observe((path, RO))
    return found


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def test_a_directory_is_known_by_device_and_inode(tmp_path: Path) -> None:
    found = only(tmp_path)
    status = tmp_path.stat()
    assert (found.state, found.kind, found.canonical) == (
        PathState.OBJECT,
        ObjectKind.DIRECTORY,
        str(tmp_path),
    )
    assert (found.device, found.inode, found.uid, found.gid) == (
        status.st_dev,
        status.st_ino,
        status.st_uid,
        status.st_gid,
    )
    assert found.hops == ()


@pytest.mark.parametrize("spelling", ["{0}/", "{0}//", "/{0}", "{0}/.", "{0}/./"])
def test_slashes_and_dots_do_not_matter(spelling: str, tmp_path: Path) -> None:
    assert only(spelling.format(tmp_path)).canonical == str(tmp_path)


def test_a_file_with_a_trailing_slash_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    found = only(f"{tmp_path}/f/")
    assert (found.state, found.canonical) == (PathState.OBJECT, f"{tmp_path}/f")


def test_every_link_on_the_way_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "real/in").mkdir(parents=True)
    (tmp_path / "real/in/file").touch()
    (tmp_path / "absolute").symlink_to(tmp_path / "real")
    (tmp_path / "real/in/relative").symlink_to("../in/file")
    found = only(tmp_path / "absolute/in/relative")
    assert found.canonical == str(tmp_path / "real/in/file")
    assert found.hops == (
        SymlinkHop(str(tmp_path / "absolute"), str(tmp_path / "real")),
        SymlinkHop(str(tmp_path / "real/in/relative"), "../in/file"),
    )


def test_dots_after_a_link_lead_where_the_kernel_says(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/b")
    found = only(f"{tmp_path}/link/../b")
    assert found.canonical == str(tmp_path / "a/b")
    assert found.hops == (SymlinkHop(str(tmp_path / "link"), "a/b"),)


def test_a_loop_of_links_cannot_be_resolved(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    found = only(tmp_path / "x")
    assert found.state is PathState.UNKNOWN
    assert "symbolic links" in found.error


def test_a_missing_path_is_absent_where_it_would_be(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    found = only(tmp_path / "link/no/./such")
    assert (found.state, found.canonical) == (PathState.ABSENT, str(tmp_path / "real/no/such"))
    assert found.slot is None


def test_a_path_below_a_file_is_absent(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    found = only(tmp_path / "f/x")
    assert (found.state, found.canonical) == (PathState.ABSENT, str(tmp_path / "f/x"))


def test_a_dangling_link_is_absent_where_it_points(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone/away")
    found = only(tmp_path / "link")
    assert (found.state, found.canonical) == (PathState.ABSENT, str(tmp_path / "gone/away"))
    assert found.hops == (SymlinkHop(str(tmp_path / "link"), "gone/away"),)


def test_a_relative_path_is_not_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    found = only("data/../data")
    assert (found.state, found.canonical, found.slot) == (PathState.UNKNOWN, str(tmp_path / "data"), None)


def test_a_too_long_name_cannot_be_resolved(tmp_path: Path) -> None:
    assert only(tmp_path / ("x" * 300)).state is PathState.UNKNOWN


def test_a_name_that_looks_deleted_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "x (deleted)").touch()
    (tmp_path / "link").symlink_to("x (deleted)")
    assert only(tmp_path / "x (deleted)").canonical == str(tmp_path / "x (deleted)")
    assert only(tmp_path / "link").canonical == str(tmp_path / "x (deleted)")


def test_sockets_and_fifos_are_other_objects_and_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # an open(2) for reading would wait for a writer
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        for name in ("fifo", "sock"):
            found = only(tmp_path / name)
            assert (found.state, found.kind) == (PathState.OBJECT, ObjectKind.OTHER)
            assert found.readable and found.writable


def test_two_spellings_of_one_object_get_the_strictest_access(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    view = resolve((tmp_path / "d", RW), (tmp_path / "link", RO), (tmp_path, RW))
    assert [(entry.effect.value, entry.path) for entry in view.entries] == [
        ("read-write", str(tmp_path)),
        ("read-only", str(tmp_path / "d")),
    ]


def test_descriptors_keep_the_object_when_its_path_is_swapped(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine").touch()
    found, objects = observe_paths(
        [Grant(str(tmp_path / "data"), RO, "/0")], calling_user(), visible_trees=[]
    )
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "data").symlink_to("/etc")
    assert found[0].slot is not None
    held = os.fstat(objects.fileno(found[0].slot))
    assert (held.st_dev, held.st_ino) == (found[0].device, found[0].inode)
    assert [entry.name for entry in os.scandir(f"/proc/self/fd/{objects.fileno(found[0].slot)}")] == ["mine"]
    objects.close()


def test_descriptors_are_neither_inherited_nor_readable_and_close_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("secret")
    before = open_descriptors()
    found, objects = observe_paths(
        [Grant(str(tmp_path / "f"), DENIED, "/0"), Grant(str(tmp_path), RO, "/1")],
        calling_user(),
        visible_trees=[],
    )
    for path in found:
        assert path.slot is not None
        assert not os.get_inheritable(objects.fileno(path.slot))
    assert found[0].slot is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(objects.fileno(found[0].slot), 1)
    objects.close()
    objects.close()
    assert open_descriptors() == before


def test_no_descriptor_is_left_when_paths_are_missing_or_unresolvable(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to(tmp_path)
    before = open_descriptors()
    for name in ("no", "loop", "link", "link/no", "x" * 300):
        only(tmp_path / name)
    assert open_descriptors() == before


def test_denied_only_policies_say_what_is_denied(tmp_path: Path) -> None:
    [found] = observe((tmp_path, DENIED), visible=["/usr"])
    assert (found.state, found.others, found.links_unaccounted) == (PathState.OBJECT, (), False)


def test_what_only_a_kernel_link_leads_to_cannot_be_resolved() -> None:
    reader, writer = os.pipe()
    found = only(f"/proc/self/fd/{reader}")
    os.close(reader)
    os.close(writer)
    assert found.state is PathState.UNKNOWN


def test_an_object_that_comes_and_goes_is_never_said_to_be_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("d")
    swap = "import os, sys\nwhile True: os.mkdir(sys.argv[1]); os.rmdir(sys.argv[1])"
    with subprocess.Popen([sys.executable, "-c", swap, tmp_path / "d"]) as swapper:
        seen = [only(tmp_path / "link") for _ in range(2000)]
        swapper.kill()
    assert {found.canonical for found in seen if found.state is not PathState.UNKNOWN} == {
        str(tmp_path / "d")
    }
