"""What a filesystem policy means: the ordered view."""

from __future__ import annotations

from backends.base import Effect, ObjectKind, OtherName
from mxc_ops.policy.filesystem import resolve_filesystem
from tests.unit.policy_paths import DENIED, RO, RW, file, missing, steps, there

FILE = ObjectKind.FILE


def test_an_empty_policy_mounts_nothing() -> None:
    assert resolve_filesystem([]).entries == ()


def test_shallow_entries_come_first_so_that_deeper_ones_cover_them() -> None:
    view = resolve_filesystem([there("/a/b/c", RO), there("/a", RW), there("/a/b", RO)])
    assert steps(view) == [("read-write", "/a"), ("read-only", "/a/b"), ("read-only", "/a/b/c")]


def test_equal_depth_is_ordered_read_write_read_only_denied() -> None:
    view = resolve_filesystem([there("/g", RW), there("/g/z", DENIED), there("/g/y", RO), there("/g/x", RW)])
    assert steps(view)[1:] == [("read-write", "/g/x"), ("read-only", "/g/y"), ("mask directory", "/g/z")]


def test_read_write_inside_read_only_is_writable() -> None:
    view = resolve_filesystem([there("/src", RO), there("/src/out", RW)])
    assert steps(view) == [("read-only", "/src"), ("read-write", "/src/out")]


def test_read_only_inside_read_write_is_read_only() -> None:
    view = resolve_filesystem([there("/src", RW), file("/src/lock", RO)])
    assert steps(view) == [("read-write", "/src"), ("read-only", "/src/lock")]


def test_denied_child_under_granted_parent_is_masked_as_what_it_is() -> None:
    view = resolve_filesystem([there("/src", RW), there("/src/.git", DENIED), file("/src/key", DENIED)])
    assert steps(view)[1:] == [("mask directory", "/src/.git"), ("mask file", "/src/key")]


def test_a_denied_socket_is_masked_as_a_file() -> None:
    view = resolve_filesystem([there("/src", RO), there("/src/sock", DENIED, ObjectKind.OTHER)])
    assert steps(view)[1:] == [("mask file", "/src/sock")]


def test_a_grant_below_a_denied_directory_opens_it_again_and_the_mask_lets_pass() -> None:
    view = resolve_filesystem([there("/d", RO), there("/d/secret", DENIED), there("/d/secret/x/pub", RW)])
    assert steps(view) == [
        ("read-only", "/d"),
        ("mask directory", "/d/secret"),
        ("read-write", "/d/secret/x/pub"),
    ]
    assert view.entries[1].traversable


def test_a_mask_with_nothing_granted_below_lets_nobody_pass() -> None:
    view = resolve_filesystem([there("/d", RO), there("/d/secret", DENIED), there("/d/secretive", RW)])
    [mask] = [entry for entry in view.entries if entry.effect is Effect.MASK_DIRECTORY]
    assert not mask.traversable


def test_a_directory_name_that_merely_starts_alike_is_not_inside() -> None:
    view = resolve_filesystem([there("/data", RO), there("/database", DENIED)])
    assert steps(view) == [("read-only", "/data")]


def test_what_no_tree_shows_needs_no_mask() -> None:
    view = resolve_filesystem([there("/srv", DENIED), there("/srv/pub", RO), file("/root/key", DENIED)])
    assert steps(view) == [("read-only", "/srv/pub")]
    assert any("/root/key" in line and "nothing of the host's is visible" in line for line in view.decisions)


def test_a_mask_inside_a_masked_directory_is_not_needed() -> None:
    view = resolve_filesystem([there("/d", RO), there("/d/s", DENIED), there("/d/s/t", DENIED)])
    assert steps(view) == [("read-only", "/d"), ("mask directory", "/d/s")]


def test_denied_inside_the_baseline_is_masked() -> None:
    view = resolve_filesystem([file("/usr/bin/curl", DENIED)], ["/usr"])
    assert steps(view) == [("mask file", "/usr/bin/curl")]


def test_denied_above_a_baseline_tree_masks_that_too() -> None:
    view = resolve_filesystem([there("/usr", DENIED)], ["/usr/bin", "/usr/lib"])
    assert steps(view) == [("mask directory", "/usr")]


def test_every_name_of_what_is_denied_is_told_whether_it_is_on_the_host_or_not() -> None:
    linked = there("/bin/tool", DENIED, FILE, canonical="/usr/bin/tool", hops=[("/bin", "usr/bin")])
    view = resolve_filesystem([linked, missing("/opt/none", DENIED), there("/srv", RO)])
    assert view.denied == ("/bin/tool", "/opt/none", "/usr/bin/tool")


def test_one_path_in_two_lists_gets_the_strictest_access() -> None:
    first = there("/data", RW)
    view = resolve_filesystem([first, there("/data", RO, same_as=first)])
    assert steps(view) == [("read-only", "/data")]
    [decision] = view.decisions
    assert "/filesystem/readwritePaths//data" in decision and "readonly" in decision


def test_one_object_under_two_names_gets_the_strictest_access_at_both() -> None:
    first = there("/data", RW)
    view = resolve_filesystem([first, there("/mnt/data", RO, same_as=first)])
    assert steps(view) == [("read-only", "/data"), ("read-only", "/mnt/data")]


def test_denying_one_name_denies_the_granted_other() -> None:
    first = there("/data/x", RW)
    view = resolve_filesystem([there("/data", RO), first, there("/mnt/x", DENIED, same_as=first)])
    assert steps(view) == [("read-only", "/data"), ("mask directory", "/data/x")]


def test_objects_of_different_devices_with_one_inode_number_are_different() -> None:
    first = there("/data", RW)
    other = there("/mnt", RO, same_as=first)
    from backends.frozen import replace

    view = resolve_filesystem([first, replace(other, device=2)])
    assert steps(view) == [("read-write", "/data"), ("read-only", "/mnt")]


def test_a_bind_names_descriptor_object_and_owner() -> None:
    path = there("/data", RO)
    [entry] = resolve_filesystem([path]).entries
    assert (entry.slot, entry.object, entry.owner) == (path.slot, (1, path.inode), (0, 0))
    assert entry.pointer == path.grant.pointer


def test_further_names_of_a_denied_object_are_masked() -> None:
    names = (
        OtherName("/job/link", FILE, "hard link"),
        OtherName("/job/m/d", ObjectKind.DIRECTORY, "second mount"),
    )
    view = resolve_filesystem([there("/d", DENIED, others=names), there("/job", RW)])
    assert steps(view) == [
        ("read-write", "/job"),
        ("mask file", "/job/link"),
        ("mask directory", "/job/m/d"),
    ]


def test_a_further_name_that_is_granted_itself_is_denied() -> None:
    names = (OtherName("/job/link", FILE, "hard link"),)
    view = resolve_filesystem([there("/d", DENIED, others=names), there("/job", RO), file("/job/link", RW)])
    assert steps(view) == [("read-only", "/job"), ("mask file", "/job/link")]


def test_further_names_of_a_read_only_object_are_mounted_read_only() -> None:
    other = OtherName("/job/link", FILE, "hard link", 77, (1, 5), (3, 4))
    view = resolve_filesystem([there("/d/f", RO, FILE, others=(other,)), there("/job", RW)])
    entry = view.entries[-1]
    assert (entry.effect, entry.path, entry.slot) == (Effect.BIND_READ_ONLY, "/job/link", 77)
    assert (entry.object, entry.owner) == ((1, 5), (3, 4))


def test_a_grant_through_a_link_is_mounted_where_the_object_is_and_the_link_made() -> None:
    path = there("/cfg", RO, canonical="/srv/cfg", hops=[("/cfg", "srv/cfg")])
    view = resolve_filesystem([path])
    assert steps(view) == [("symlink", "/cfg"), ("read-only", "/srv/cfg")]
    assert view.entries[0].target == "srv/cfg"


def test_a_link_that_a_granted_tree_shows_is_not_made() -> None:
    path = there("/w/cfg", RO, canonical="/srv/cfg", hops=[("/w/cfg", "/srv/cfg")])
    assert steps(resolve_filesystem([there("/w", RW), path])) == [
        ("read-write", "/w"),
        ("read-only", "/srv/cfg"),
    ]


def test_a_link_in_the_baseline_is_not_made() -> None:
    path = there(
        "/bin/sh", RO, FILE, canonical="/usr/bin/dash", hops=[("/bin", "usr/bin"), ("/usr/bin/sh", "dash")]
    )
    assert steps(resolve_filesystem([path], ["/usr", "/bin"])) == [("read-only", "/usr/bin/dash")]


def test_a_link_the_sandbox_has_itself_is_not_made_again() -> None:
    path = there("/bin/x", RO, canonical="/opt/bin/x", hops=[("/bin", "opt/bin")])
    assert steps(resolve_filesystem([path], ["/usr"], ["/bin", "/tmp"])) == [("read-only", "/opt/bin/x")]


def test_what_the_sandbox_has_itself_shows_nothing_that_needs_a_mask() -> None:
    assert (
        resolve_filesystem(
            [there("/tmp", DENIED), there("/var/tmp", DENIED)], [], ["/tmp", "/var/tmp"]
        ).entries
        == ()
    )


def test_a_link_inside_a_mask_is_made_after_it() -> None:
    path = there("/w/s/cfg", RO, canonical="/srv/cfg", hops=[("/w/s/cfg", "/srv/cfg")])
    view = resolve_filesystem([there("/w", RO), there("/w/s", DENIED), path])
    assert steps(view) == [
        ("read-only", "/w"),
        ("read-only", "/srv/cfg"),
        ("mask directory", "/w/s"),
        ("symlink", "/w/s/cfg"),
    ]
    assert view.entries[2].traversable


def test_no_link_is_made_for_what_is_denied() -> None:
    path = there("/cfg", DENIED, canonical="/srv/cfg", hops=[("/cfg", "srv/cfg")])
    assert steps(resolve_filesystem([there("/srv", RO), path])) == [
        ("read-only", "/srv"),
        ("mask directory", "/srv/cfg"),
    ]


def test_a_link_two_grants_pass_through_is_made_once() -> None:
    paths = [there(f"/l/{n}", RO, canonical=f"/srv/{n}", hops=[("/l", "srv")]) for n in "ab"]
    assert steps(resolve_filesystem(paths)) == [
        ("symlink", "/l"),
        ("read-only", "/srv/a"),
        ("read-only", "/srv/b"),
    ]


def test_missing_optional_grants_are_left_out_and_said() -> None:
    view = resolve_filesystem([missing("/nope", RO, optional=True)])
    assert view.entries == ()
    assert "/nope" in view.decisions[0]


def test_missing_denied_paths_outside_grants_and_under_read_only_ones_are_satisfied() -> None:
    view = resolve_filesystem([missing("/x/y", DENIED), missing("/ro/y", DENIED), there("/ro", RO)], ["/usr"])
    assert steps(view) == [("read-only", "/ro")]


def test_sockets_may_be_granted() -> None:
    view = resolve_filesystem([there("/run/x.sock", RW, ObjectKind.OTHER)])
    assert steps(view) == [("read-write", "/run/x.sock")]
