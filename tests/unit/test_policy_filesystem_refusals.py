"""Which filesystem policies are refused, with which fix."""

from __future__ import annotations

import stat

import pytest

from backends.base import Access, ObjectKind, SymlinkHop
from backends.frozen import replace
from mxc_ops.policy.filesystem import resolve_filesystem
from tests.unit.policy_paths import DENIED, RO, RW, missing, refusal, refused, steps, there, unknown


@pytest.mark.parametrize("access", list(Access))
def test_relative_paths_are_refused_with_the_path_to_write(access: Access) -> None:
    problem = refusal(replace(unknown("data", access), canonical="/home/u/data"))
    assert problem.code == "path_relative"
    assert problem.path.endswith("/data")
    assert "/home/u/data" in problem.fix


@pytest.mark.parametrize("access", list(Access))
def test_dots_that_cross_no_link_are_fine(access: Access) -> None:
    resolve_filesystem([there("/a/../data/./x", access, canonical="/data/x")])


@pytest.mark.parametrize("access", list(Access))
def test_dots_after_a_link_are_refused(access: Access) -> None:
    path = there("/l/../x", access, canonical="/srv/x", hops=[("/l", "/srv/data")])
    problem = refusal(path)
    assert problem.code == "path_ambiguous"
    assert "/srv/x" in problem.fix


def test_dots_before_a_link_are_fine() -> None:
    resolve_filesystem([there("/a/../l/x", RO, canonical="/srv/x", hops=[("/l", "/srv")])])


def test_dots_after_a_missing_name_are_refused() -> None:
    # /ro/missing/../secret could be taken for absent while /ro/secret exists
    problem = refusal(missing("/ro/missing/../secret", DENIED, canonical="/ro/secret"), there("/ro", RO))
    assert problem.code == "path_ambiguous"


@pytest.mark.parametrize("access", list(Access))
def test_the_root_directory_is_refused(access: Access) -> None:
    assert refusal(there("/", access)).code == "path_root"


@pytest.mark.parametrize("path", ["/proc", "/proc/1/root", "/dev", "/dev/shm", "/sys", "/sys/fs/cgroup"])
@pytest.mark.parametrize("access", [RO, RW])
def test_kernel_interfaces_are_not_granted(path: str, access: Access) -> None:
    assert refusal(there(path, access)).code == "path_kernel_interface"


def test_names_that_only_start_like_kernel_interfaces_are_granted() -> None:
    assert steps(resolve_filesystem([there("/processing", RO), there("/devel", RO)])) == [
        ("read-only", "/processing"),
        ("read-only", "/devel"),
    ]


def test_a_path_that_leads_through_proc_is_refused() -> None:
    assert refusal(there("/proc/self/cwd", RO, canonical="/home/u")).code == "path_kernel_interface"


def test_a_link_that_leads_through_proc_is_refused() -> None:
    path = there("/w", RO, canonical="/home/u", hops=[("/w", "/proc/self/cwd"), ("/proc/self", "12")])
    assert refusal(path).code == "path_kernel_interface"


@pytest.mark.parametrize("path", ["/proc/kcore", "/dev/mem"])
def test_denying_what_the_sandbox_has_of_its_own_is_refused(path: str) -> None:
    assert refusal(there(path, DENIED, ObjectKind.OTHER)).code == "path_kernel_interface"


def test_denying_sys_is_satisfied_because_no_sandbox_has_it() -> None:
    assert resolve_filesystem([there("/sys/kernel", DENIED)], ["/usr"]).entries == ()


def test_a_kernel_interface_mounted_inside_a_grant_is_refused_unless_denied() -> None:
    chroot = replace(there("/srv/root", RO), kernel_mounts=("/srv/root/proc",))
    problem = refusal(chroot)
    assert problem.code == "path_kernel_interface"
    assert "umount /srv/root/proc" in problem.fix
    view = resolve_filesystem([chroot, there("/srv/root/proc", DENIED)])
    assert ("mask directory", "/srv/root/proc") in steps(view)


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_devices_are_not_granted(kind: int) -> None:
    device = replace(there("/srv/disk", RW, ObjectKind.OTHER), mode=kind | 0o666)
    assert refusal(device).code == "path_device"


def test_an_unresolvable_grant_is_refused_even_when_nothing_is_denied() -> None:
    problem = refusal(unknown("/x/y", RO))
    assert problem.code == "path_unresolved"
    assert "Permission denied" in problem.message


def test_an_unresolvable_path_fails_closed_when_something_is_denied() -> None:
    problem = refusal(unknown("/x/y", RO), there("/z", DENIED))
    assert "another name of a denied object" in problem.message


def test_an_unresolvable_denied_path_fails_closed() -> None:
    assert refusal(unknown("/x/y", DENIED)).code == "path_unresolved"


def test_a_missing_grant_is_refused_with_the_command_that_makes_it() -> None:
    problem = refusal(missing("/srv/my data", RW))
    assert (problem.code, problem.fix) == ("path_missing", "mkdir -p '/srv/my data'")


def test_a_missing_denied_path_under_a_read_write_grant_is_refused() -> None:
    problem = refusal(missing("/w/.env", DENIED), there("/w", RW))
    assert problem.code == "denied_path_missing"
    assert problem.path == "/filesystem/deniedPaths//w/.env"


@pytest.mark.parametrize(("deepest", "accepted"), [(RW, False), (RO, True), (DENIED, True)])
def test_the_deepest_grant_decides_about_a_missing_denied_path(deepest: Access, accepted: bool) -> None:
    outer = there("/w", RO if deepest is RW else RW)
    policy = [outer, there("/w/in", deepest), missing("/w/in/.env", DENIED)]
    if accepted:
        resolve_filesystem(policy)
    else:
        assert refusal(*policy).code == "denied_path_missing"


def test_a_grant_the_caller_cannot_read_is_refused() -> None:
    path = replace(there("/srv/x", RO), readable=False, writable=False)
    problem = refusal(path)
    assert problem.code == "delegation_refused"
    assert "does not have read access" in problem.message


def test_a_read_write_grant_the_caller_cannot_write_is_refused() -> None:
    problem = refusal(replace(there("/srv/x", RW), writable=False))
    assert problem.code == "delegation_refused"
    assert "read+write" in problem.message
    assert "readonlyPaths" in problem.fix


def test_write_access_without_read_access_is_not_enough() -> None:
    assert refusal(replace(there("/srv/x", RW), readable=False)).code == "delegation_refused"


def test_a_grant_tightened_to_read_only_needs_read_access_only() -> None:
    first = replace(there("/data", RW), writable=False)
    resolve_filesystem([first, there("/mnt/data", RO, same_as=first)])


def test_denied_paths_need_no_access() -> None:
    resolve_filesystem([replace(there("/srv/x", DENIED), readable=False, writable=False)])


@pytest.mark.parametrize("access", [RO, DENIED])
def test_an_object_with_names_that_were_not_found_is_refused(access: Access) -> None:
    problem = refusal(replace(there("/srv/x", access), links_unaccounted=True))
    assert problem.code == "links_unaccounted"


def test_names_that_are_not_text_are_refused() -> None:
    path = there("/l", RO, canonical="/srv/\udcff", hops=[("/l", "/srv/\udcff")])
    assert refusal(path).code == "path_not_utf8"
    assert "\\udcff" in refusal(path).message


def test_control_characters_are_escaped_in_messages() -> None:
    assert "\n" not in str(refusal(missing("/srv/a\nb", RO)).message)


def test_all_problems_are_reported_at_once() -> None:
    problems = refused(
        there("/proc", RO),
        missing("/nope", RO),
        replace(there("/x", RO), hops=(SymlinkHop("/x", "/dev/shm"),), canonical="/dev/shm"),
        replace(there("/y", RW), writable=False),
        unknown("/z", DENIED),
    )
    assert [problem.code for problem in problems] == [
        "path_kernel_interface",
        "path_missing",
        "path_kernel_interface",
        "delegation_refused",
        "path_unresolved",
    ]
