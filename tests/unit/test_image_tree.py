"""A root file system worked on from outside: nothing that is written through its links lands beside it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import PrepFailed
from vm_images.recipe import OwnFile
from vm_images.tree import fingerprint, finish, inside, put, tame

PARTS = st.sampled_from(["a", "b", "c", "..", ".", ""])
PATHS = st.lists(PARTS, min_size=1, max_size=6).map("/".join)
LINKS = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.builds(str.__add__, st.sampled_from(["", "/"]), PATHS)
)


@given(LINKS, PATHS)
def test_whatever_the_links_nothing_is_made_outside(links: dict[str, str], path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        for name, target in links.items():
            (tree / name).symlink_to(target or ".")
        try:
            place = inside(tree, path)
        except PrepFailed:
            place = tree
        assert place.resolve().is_relative_to(tree.resolve())
        assert [entry.name for entry in Path(folder).iterdir()] == ["tree"]


def test_an_absolute_link_leads_where_it_does_for_the_guest(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "usr").mkdir(parents=True)
    (tree / "etc").symlink_to("/usr/etc")
    put(tree, OwnFile("/etc/passwd", b"ours"))
    assert (tree / "usr/etc/passwd").read_bytes() == b"ours"


def test_a_file_of_ours_takes_the_place_of_a_link_and_not_of_what_it_leads_to(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs")
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/passwd").symlink_to(other)
    put(tree, OwnFile("/etc/passwd", b"ours"))
    assert (other.read_text(), (tree / "etc/passwd").read_bytes()) == ("theirs", b"ours")


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "etc").symlink_to("etc")
    with pytest.raises(PrepFailed, match="no directory of the image"):
        finish(tmp_path, ())


def test_devices_sockets_and_set_id_bits_go(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "dev").mkdir(parents=True)
    os.mkfifo(tree / "dev/pipe")
    (tree / "su").write_text("su")
    (tree / "su").chmod(0o6755)
    (tree / "dev").chmod(0o3777)
    (tree / "link").symlink_to("/dev/null")
    tame(tree)
    assert sorted(path.name for path in tree.rglob("*")) == ["dev", "link", "su"]
    assert stat.S_IMODE((tree / "su").stat().st_mode) == 0o755
    assert stat.S_IMODE((tree / "dev").stat().st_mode) == 0o1777


def test_a_fingerprint_is_of_names_permissions_and_contents(tmp_path: Path) -> None:
    def made(name: str = "file", content: str = "x", mode: int = 0o644, target: str = "file") -> str:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            tree = Path(folder)
            (tree / name).write_text(content)
            (tree / name).chmod(mode)
            (tree / "link").symlink_to(target)
            return fingerprint(tree)

    same = made()
    others = {made("other"), made(content="y"), made(mode=0o600), made(target="other")}
    assert made() == same
    assert len(others) == 4 and same not in others
