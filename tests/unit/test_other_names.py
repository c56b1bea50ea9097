"""Further names of denied and read-only objects: hard links and second mounts are found."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.base import Grant, ObjectKind
from backends.errors import PolicyRefused
from backends.linux import objects
from backends.linux.hard_links import Budget
from backends.linux.other_names import add_other_names
from tests.conftest import User
from tests.unit.observing import DENIED, RO, RW, observe, others, resolve, with_mounts

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, which only root can")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """``secret/key`` (to be denied) and an empty granted directory ``job``, in one file system."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("key")
    (tmp_path / "job/deep").mkdir(parents=True)
    return tmp_path


def test_a_file_without_further_links_has_no_other_names(tree: Path) -> None:
    denied, _ = observe((tree / "secret/key", DENIED), (tree / "job", RW))
    assert (denied.others, denied.links_unaccounted) == ((), False)


def test_a_hard_link_of_a_denied_file_in_a_granted_tree_is_masked(tree: Path) -> None:
    (tree / "job/deep/copy").hardlink_to(tree / "secret/key")
    policy = ((tree / "secret/key", DENIED), (tree / "job", RO))
    denied, _ = observe(*policy)
    assert others(denied) == {str(tree / "job/deep/copy"): "hard link"}
    assert ("mask file", str(tree / "job/deep/copy")) in [
        (e.effect.value, e.path) for e in resolve(*policy).entries
    ]


def test_a_hard_link_of_a_file_in_a_denied_directory_is_found(tree: Path) -> None:
    (tree / "secret/in").mkdir()
    (tree / "secret/in/f").touch()
    (tree / "job/f").hardlink_to(tree / "secret/in/f")
    denied, _ = observe((tree / "secret", DENIED), (tree / "job", RW))
    assert others(denied) == {str(tree / "job/f"): "hard link"}


def test_every_hard_link_is_found(tree: Path) -> None:
    for name in ("job/1", "job/2", "job/deep/3", "outside"):
        (tree / name).hardlink_to(tree / "secret/key")
    denied, _ = observe((tree / "secret", DENIED), (tree / "job", RW))
    assert set(others(denied)) == {str(tree / name) for name in ("job/1", "job/2", "job/deep/3")}


def test_a_hard_link_outside_of_every_visible_tree_does_not_matter(tree: Path) -> None:
    (tree / "outside").hardlink_to(tree / "secret/key")
    denied, _ = observe((tree / "secret", DENIED), (tree / "job", RW))
    assert (denied.others, denied.links_unaccounted) == ((), False)


def test_a_hard_link_in_the_baseline_is_found(tree: Path) -> None:
    (tree / "job/lib").hardlink_to(tree / "secret/key")
    [denied] = observe((tree / "secret", DENIED), visible=[tree / "job"])
    assert others(denied) == {str(tree / "job/lib"): "hard link"}


def test_a_granted_file_that_is_a_hard_link_of_something_denied_is_denied(tree: Path) -> None:
    (tree / "job/f").hardlink_to(tree / "secret/key")
    view = resolve((tree / "secret", DENIED), (tree / "job/f", RO), (tree / "job", RO))
    assert [(e.effect.value, e.path) for e in view.entries] == [
        ("read-only", str(tree / "job")),
        ("mask file", str(tree / "job/f")),
    ]


def test_names_below_another_denied_directory_need_no_mask(tree: Path) -> None:
    (tree / "job/deep/f").hardlink_to(tree / "secret/key")
    denied, *_ = observe((tree / "secret", DENIED), (tree / "job", RW), (tree / "job/deep", DENIED))
    assert denied.others == ()


def test_files_that_are_granted_again_below_a_denied_directory_are_not_hunted(tree: Path) -> None:
    (tree / "secret/pub").mkdir()
    (tree / "secret/pub/f").touch()
    (tree / "job/f").hardlink_to(tree / "secret/pub/f")
    denied, *_ = observe((tree / "secret", DENIED), (tree / "secret/pub", RO), (tree / "job", RW))
    assert denied.others == ()


def test_a_denied_name_inside_a_directory_granted_again_is_found(tree: Path) -> None:
    (tree / "secret/pub").mkdir()
    (tree / "secret/pub/f").hardlink_to(tree / "secret/key")
    denied, _ = observe((tree / "secret", DENIED), (tree / "secret/pub", RO))
    assert others(denied) == {str(tree / "secret/pub/f"): "hard link"}


def test_a_hard_link_of_a_read_only_file_in_a_writable_tree_is_mounted_read_only(tree: Path) -> None:
    (tree / "job/f").hardlink_to(tree / "secret/key")
    view = resolve((tree / "secret/key", RO), (tree / "job", RW))
    last = view.entries[-1]
    assert (last.effect.value, last.path) == ("read-only", str(tree / "job/f"))
    status = (tree / "job/f").stat()
    assert last.slot is not None
    assert last.object == (status.st_dev, status.st_ino)


def test_a_writable_grant_of_a_baseline_tree_counts_as_writable(tree: Path) -> None:
    (tree / "job/f").hardlink_to(tree / "secret/key")
    kept, _ = observe((tree / "secret/key", RO), (tree / "job", RW), visible=[tree / "job"])
    assert others(kept) == {str(tree / "job/f"): "hard link"}


def test_a_search_that_grows_too_long_is_given_up_and_refused(tree: Path) -> None:
    (tree / "outside").hardlink_to(tree / "secret/key")
    for number in range(50):
        (tree / f"job/{number}").touch()
    grants = [Grant(str(tree / "secret"), DENIED, "/0"), Grant(str(tree / "job"), RW, "/1")]
    found, held = objects.observe_paths(grants, objects.calling_user(), visible_trees=[])
    assert not found[0].links_unaccounted
    [denied, _] = add_other_names(found, held, [], Budget(20))
    held.close()
    assert denied.links_unaccounted


def test_what_the_user_could_open_up_but_cannot_read_now_is_refused(as_user: User) -> None:
    done = as_user(
        "import os\n"
        "from backends.base import Access, Grant\n"
        "from backends.linux.objects import calling_user, observe_paths\n"
        "os.makedirs('w/shut'); os.mkdir('s'); open('s/key', 'w').close()\n"
        "os.link('s/key', 'w/shut/key'); os.chmod('w/shut', 0)\n"
        "here = os.getcwd()\n"
        "grants = [Grant(here + '/s', Access.DENIED, ''), Grant(here + '/w', Access.READ_WRITE, '')]\n"
        "found, _ = observe_paths(grants, calling_user(), visible_trees=[])\n"
        "print(found[0].links_unaccounted)\n"
        "os.chmod('w/shut', 0o700); os.unlink('w/shut/key'); os.removedirs('w/shut')\n"
    )
    assert done.stdout == "True\n", done.stderr


def test_denying_a_directory_that_the_user_cannot_read_is_accepted(as_user: User) -> None:
    done = as_user(
        "from backends.base import Access, Grant\n"
        "from backends.linux.objects import calling_user, observe_paths\n"
        "grants = [Grant('/root', Access.DENIED, ''), Grant('/usr/share/doc', Access.READ_ONLY, '')]\n"
        "found, _ = observe_paths(grants, calling_user(), visible_trees=[])\n"
        "print(found[0].state.value, found[0].links_unaccounted)\n"
    )
    assert done.stdout == "object False\n", done.stderr


@needs_root
def test_a_second_mount_of_a_denied_directory_in_a_granted_tree_is_masked(tree: Path) -> None:
    seen = with_mounts(
        f"mount --bind {tree}/secret {tree}/job/deep", (tree / "secret", DENIED), (tree / "job", RW)
    )
    assert seen.others[0] == {f"{tree}/job/deep": "second mount"}
    assert seen.steps == [["read-write", f"{tree}/job"], ["mask directory", f"{tree}/job/deep"]]


@needs_root
def test_a_second_mount_of_a_parent_shows_the_denied_file_deeper_down(tree: Path) -> None:
    seen = with_mounts(
        f"mount --bind {tree} {tree}/job/deep", (tree / "secret/key", DENIED), (tree / "job", RW)
    )
    assert seen.others[0] == {f"{tree}/job/deep/secret/key": "second mount"}


@needs_root
def test_a_second_mount_of_a_part_of_a_denied_directory_is_masked(tree: Path) -> None:
    (tree / "secret/in").mkdir()
    seen = with_mounts(
        f"mount --bind {tree}/secret/in {tree}/job/deep", (tree / "secret", DENIED), (tree / "job", RO)
    )
    assert seen.others[0] == {f"{tree}/job/deep": "second mount"}


@needs_root
def test_a_granted_second_mount_of_a_denied_directory_is_denied(tree: Path) -> None:
    seen = with_mounts(
        f"mount --bind {tree}/secret {tree}/job/deep", (tree / "secret", DENIED), (tree / "job/deep", RW)
    )
    assert seen.steps == []


@needs_root
def test_a_grant_inside_a_second_mount_of_a_denied_directory_is_denied(tree: Path) -> None:
    (tree / "secret/in/x").mkdir(parents=True)
    seen = with_mounts(
        f"mount --bind {tree}/secret {tree}/job/deep", (tree / "secret", DENIED), (tree / "job/deep/in", RW)
    )
    assert seen.others[0] == {f"{tree}/job/deep/in": "second mount"}
    assert seen.steps == []


@needs_root
def test_a_second_mount_of_what_is_granted_again_stays_open(tree: Path) -> None:
    (tree / "secret/pub").mkdir()
    seen = with_mounts(
        f"mount --bind {tree}/secret/pub {tree}/job/deep",
        (tree / "secret", DENIED),
        (tree / "secret/pub", RO),
        (tree / "job", RO),
    )
    assert seen.others[0] == {}


@needs_root
def test_a_mount_inside_a_denied_directory_is_known_elsewhere_too(tree: Path) -> None:
    (tree / "secret/disk").mkdir()
    seen = with_mounts(
        f"mount -t tmpfs none {tree}/secret/disk; mount --bind {tree}/secret/disk {tree}/job/deep",
        (tree / "secret", DENIED),
        (tree / "job", RW),
    )
    assert seen.others[0] == {f"{tree}/job/deep": "second mount"}


@needs_root
def test_a_file_mounted_over_another_is_the_file_it_shows(tree: Path) -> None:
    (tree / "job/f").touch()
    seen = with_mounts(
        f"mount --bind {tree}/secret/key {tree}/job/f", (tree / "secret/key", DENIED), (tree / "job", RW)
    )
    assert seen.others[0] == {f"{tree}/job/f": "second mount"}
    assert seen.steps == [["read-write", f"{tree}/job"], ["mask file", f"{tree}/job/f"]]


@needs_root
def test_a_mount_that_is_covered_by_another_shows_nothing(tree: Path) -> None:
    seen = with_mounts(
        f"mount --bind {tree}/secret {tree}/job/deep; mount -t tmpfs none {tree}/job/deep",
        (tree / "secret", DENIED),
        (tree / "job", RW),
    )
    assert seen.others[0] == {}


@needs_root
def test_a_hard_link_is_found_through_every_mount_that_shows_it(tree: Path) -> None:
    (tree / "job/f").hardlink_to(tree / "secret/key")
    (tree / "other/m").mkdir(parents=True)
    seen = with_mounts(
        f"mount --bind {tree}/job {tree}/other/m",
        (tree / "secret", DENIED),
        (tree / "job", RW),
        (tree / "other", RO),
    )
    assert set(seen.others[0]) == {f"{tree}/job/f", f"{tree}/other/m/f"}


@needs_root
def test_one_link_seen_through_two_mounts_does_not_hide_another(tree: Path) -> None:
    # three links: the denied one, one that two mounts show, and one that must still be looked for
    (tree / "a/one").mkdir(parents=True)
    (tree / "b").mkdir()
    (tree / "c").mkdir()
    (tree / "a/f").hardlink_to(tree / "secret/key")
    (tree / "c/f").hardlink_to(tree / "secret/key")
    seen = with_mounts(
        f"mount --bind {tree}/a {tree}/b",
        (tree / "secret", DENIED),
        *((tree / name, RO) for name in "abc"),
    )
    assert set(seen.others[0]) == {f"{tree}/{name}/f" for name in "abc"}


@needs_root
def test_a_read_only_directory_stays_so_through_a_second_mount(tree: Path) -> None:
    seen = with_mounts(
        f"mount --bind {tree}/secret {tree}/job/deep", (tree / "secret", RO), (tree / "job", RW)
    )
    assert ["read-only", f"{tree}/job/deep"] in seen.steps


@needs_root
def test_mount_points_with_blanks_are_understood(tree: Path) -> None:
    (tree / "job/a b").mkdir()
    seen = with_mounts(
        f"mount --bind {tree}/secret '{tree}/job/a b'", (tree / "secret", DENIED), (tree / "job", RW)
    )
    assert seen.others[0] == {f"{tree}/job/a b": "second mount"}


@needs_root
def test_a_kernel_interface_inside_a_granted_tree_is_refused(tree: Path) -> None:
    seen = with_mounts(f"mount -t proc none {tree}/job/deep", (tree / "job", RO))
    assert seen.kernel_mounts == [[f"{tree}/job/deep"]]
    assert seen.refused == ["path_kernel_interface"]


@needs_root
def test_a_kernel_interface_at_an_unusual_place_is_refused(tree: Path) -> None:
    seen = with_mounts(f"mount -t proc none {tree}/job/deep", (tree / "job/deep/sys", RO))
    assert seen.refused == ["path_kernel_interface"]


@needs_root
def test_aliases_by_bind_mount_get_the_strictest_access(tree: Path) -> None:
    seen = with_mounts(
        f"mount --bind {tree}/secret {tree}/job/deep", (tree / "secret", RO), (tree / "job/deep", RW)
    )
    assert seen.steps == [["read-only", f"{tree}/secret"], ["read-only", f"{tree}/job/deep"]]


def test_kinds_of_further_names_are_told(tree: Path) -> None:
    (tree / "job/f").hardlink_to(tree / "secret/key")
    [denied, _] = observe((tree / "secret", DENIED), (tree / "job", RW))
    assert [other.kind for other in denied.others] == [ObjectKind.FILE]


def test_a_refusal_names_the_denied_entry(tree: Path) -> None:
    with pytest.raises(PolicyRefused) as caught:
        resolve((tree / "job/.env", DENIED), (tree / "job", RW))
    assert caught.value.path == "/0"
