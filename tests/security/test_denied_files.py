"""Reading a denied file under another name (spec: backends.md §1.6; upstream-gaps.md F1, F2, F8, F9)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.security.callers import Caller, Told
from tests.security.upstream import ALL_CAPABILITIES

SECRET = "the-secret-83ac"
REFUSED_OR_MASKED = ("", "policy_validation")


@dataclass(frozen=True)
class Tree:
    """A granted directory with a denied file and, beside it, a denied directory with a file in it."""

    top: Path
    file: Path
    directory: Path

    @property
    def policy(self) -> dict[str, Any]:
        return {"read_only": [self.top], "denied": [self.file, self.directory]}


@pytest.fixture
def tree(place: Path, caller: Caller) -> Tree:
    made = Tree(place, place / "secret", place / "closed")
    made.directory.mkdir()
    for path in (made.file, made.directory / "inner"):
        path.write_text(f"{SECRET}\n")
    give(caller, place)
    return made


def give(caller: Caller, top: Path) -> None:
    """Everything below, links themselves included, to the caller."""
    for path in [top, *top.rglob("*")]:
        os.chown(path, caller.uid, caller.gid, follow_symlinks=False)


def test_by_its_own_name_upstream_masks_it_as_well(caller: Caller, tree: Tree) -> None:
    attack = f"cat {tree.file} {tree.directory}/inner; ls -la {tree.directory}"
    assert SECRET in caller.bare(attack).said, "without a mask the file is readable"
    assert SECRET not in caller.upstream(attack, **tree.policy).said
    assert SECRET not in caller.run(attack, **tree.policy).said


@pytest.mark.parametrize("target", ["secret", "closed/inner", "{top}/secret", "../{name}/closed/inner"])
def test_by_a_symlink_in_the_granted_directory(caller: Caller, tree: Tree, target: str) -> None:
    (tree.top / "link").symlink_to(target.format(top=tree.top, name=tree.top.name))
    give(caller, tree.top)
    attack = f"cat {tree.top}/link"
    # Upstream masks what the link leads to; the control leaves the masks out.
    assert SECRET in caller.bare(attack, read_only=[tree.top]).stdout
    assert SECRET not in caller.run(attack, **tree.policy).said


def test_when_the_policy_names_only_a_symlink_to_it(caller: Caller, tree: Tree) -> None:
    (tree.top / "alias").symlink_to("secret")
    give(caller, tree.top)
    attack = f"cat {tree.file} {tree.top}/alias"
    assert SECRET in caller.bare(attack, read_only=[tree.top]).stdout
    assert SECRET not in caller.run(attack, read_only=[tree.top], denied=[tree.top / "alias"]).said


def test_by_a_hard_link(caller: Caller, tree: Tree) -> None:
    os.link(tree.file, tree.top / "twin")
    attack = f"cat {tree.top}/twin"
    assert SECRET in caller.upstream(attack, **tree.policy).stdout
    told = caller.attempt(attack, **tree.policy)
    assert told.error in REFUSED_OR_MASKED, told
    assert SECRET not in told.said


def test_by_a_hard_link_of_a_file_below_a_denied_directory(caller: Caller, tree: Tree) -> None:
    (tree.top / "deep").mkdir()
    os.link(tree.directory / "inner", tree.top / "deep" / "twin")
    give(caller, tree.top)
    attack = f"cat {tree.top}/deep/twin"
    assert SECRET in caller.upstream(attack, **tree.policy).stdout
    told = caller.attempt(attack, **tree.policy)
    assert told.error in REFUSED_OR_MASKED, told
    assert SECRET not in told.said


def test_by_a_hard_link_in_another_grant(caller: Caller, tree: Tree) -> None:
    closed, other = tree.top / "closed", tree.top / "other"
    other.mkdir()
    os.link(closed / "inner", other / "twin")
    give(caller, tree.top)
    policy: dict[str, Any] = {"read_write": [other], "denied": [closed / "inner"]}
    attack = f"cat {other}/twin"
    assert SECRET in caller.upstream(attack, **policy).stdout
    told = caller.attempt(attack, **policy)
    assert told.error in REFUSED_OR_MASKED, told
    assert SECRET not in told.said


def test_by_a_second_mount_of_its_directory(caller: Caller, tree: Tree) -> None:
    second = tree.top / "second"
    second.mkdir()
    give(caller, tree.top)
    caller.bind(tree.directory, second)
    try:
        attack = f"cat {second}/inner"
        assert SECRET in caller.upstream(f"{attack}", **tree.policy).stdout
        told = caller.attempt(attack, **tree.policy)
        assert told.error in REFUSED_OR_MASKED, told
        assert SECRET not in told.said
    finally:
        caller.unbind(second)


def test_by_a_second_mount_of_the_file_alone(caller: Caller, tree: Tree) -> None:
    second = tree.top / "second"
    second.touch()
    give(caller, tree.top)
    caller.bind(tree.file, second)
    try:
        attack = f"cat {second}"
        assert SECRET in caller.upstream(attack, **tree.policy).stdout
        told = caller.attempt(attack, **tree.policy)
        assert told.error in REFUSED_OR_MASKED, told
        assert SECRET not in told.said
    finally:
        caller.unbind(second)


@pytest.mark.parametrize(
    "root", ["/proc/self/root", "/proc/1/root", "/proc/thread-self/root", "/proc/self/cwd/../.."]
)
def test_through_the_kernels_links_to_a_root_directory(caller: Caller, tree: Tree, root: str) -> None:
    attack = f"cd /usr/bin; cat {root}{tree.file} {root}{tree.directory}/inner; ls {root}/root {root}/home"
    if "/1/" not in root or caller.uid == 0:  # a bare bubblewrap's process 1 is closed to plain users
        assert SECRET in caller.bare(attack, "--unshare-pid", "--proc", "/proc").stdout, "without masks"
    assert SECRET not in caller.run(attack, **tree.policy).said


def test_through_a_descriptor_that_the_caller_left_inheritable(
    caller: Caller, tree: Tree, probe: Path
) -> None:
    source = """
import os

def main(path, policy, attack, control):
    fd = os.open(path, os.O_RDONLY)
    os.set_inheritable(fd, True)
    os.dup2(fd, 777, inheritable=True)
    try:
        return {"bare": program(control, descriptors=[777]), "ours": sandbox(attack, policy)}
    finally:
        os.close(fd)
        os.close(777)
"""
    from tests.security.upstream import upstream_argv

    policy: dict[str, Any] = {"read_only": [tree.top, probe.parent], "denied": tree.policy["denied"]}
    attack = [str(probe), *(f"read-fd={fd}" for fd in (*range(3, 40), 777))]
    found = caller.call(
        source, path=tree.file, policy=policy, attack=attack, control=upstream_argv(attack, **policy)
    )
    assert SECRET in found["bare"]["stdout"]
    assert "read-fd EBADF" in found["ours"]["stdout"]
    assert SECRET not in found["ours"]["stdout"]
    assert " ok" not in found["ours"]["stdout"]


def test_below_a_directory_that_the_caller_left_open(caller: Caller, tree: Tree, probe: Path) -> None:
    source = """
import os

def main(path, policy, attack, control):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(fd, 778, inheritable=True)
    os.close(fd)
    try:
        return {"bare": program(control, descriptors=[778]), "ours": sandbox(attack, policy)}
    finally:
        os.close(778)
"""
    from tests.security.upstream import upstream_argv

    policy: dict[str, Any] = {"read_only": [tree.top, probe.parent], "denied": tree.policy["denied"]}
    attack = [str(probe), *(f"read-below-fd={fd},closed/inner" for fd in (*range(3, 40), 778))]
    found = caller.call(
        source, path=tree.top, policy=policy, attack=attack, control=upstream_argv(attack, **policy)
    )
    assert SECRET in found["bare"]["stdout"]
    assert "read-below-fd EBADF" in found["ours"]["stdout"]
    assert SECRET not in found["ours"]["stdout"]


def test_through_the_descriptors_of_other_processes_inside(caller: Caller, tree: Tree) -> None:
    attack = 'for fd in /proc/[0-9]*/fd/*; do [ -p "$fd" ] || head -c 99 "$fd" "$fd/secret" "$fd/inner"; done'
    leaking = caller.bare(
        f"exec 9<{tree.file}; {attack}", "--proc", "/proc", "--unshare-pid", "--dev", "/dev"
    )
    assert SECRET in leaking.stdout, "a descriptor that a process inside holds is readable"
    assert SECRET not in caller.run(attack, **tree.policy).said


def _unmask(by: str, probe: Path, tree: Tree) -> str:
    return {
        "umount": f"umount {tree.directory}; umount {tree.file}; umount -l {tree.directory} {tree.file}",
        "lazy umount": f"{probe} umount={tree.file} umount={tree.directory}",
        "bind": f"mkdir /tmp/x; mount --bind {tree.top} /tmp/x; cat /tmp/x/secret /tmp/x/closed/inner",
    }[by] + f"; cat {tree.file} {tree.directory}/inner"


@pytest.mark.parametrize("by", ["umount", "lazy umount", "bind"])
def test_by_taking_its_mask_away(caller: Caller, tree: Tree, probe: Path, by: str) -> None:
    attack = _unmask(by, probe, tree)
    policy: dict[str, Any] = {**tree.policy, "read_only": [tree.top, probe.parent]}
    # For a plain user upstream's bubblewrap holds no capability either: the control gives them.
    control: Callable[..., Any] = caller.upstream if caller.uid == 0 else _with_capabilities(caller)
    assert SECRET in control(attack, **policy).stdout
    assert SECRET not in caller.run(attack, **policy).said


def _with_capabilities(caller: Caller) -> Callable[..., Any]:
    def run(attack: str, **policy: Any) -> Told:
        return caller.bare(attack, *ALL_CAPABILITIES, "--tmpfs", "/tmp", **policy)

    return run


def test_a_mask_cannot_be_written_to(caller: Caller, tree: Tree) -> None:
    closed = tree.directory
    attack = f"echo mine > {closed}/note; cat {closed}/note; chmod 777 {closed}; ls {closed}"
    assert "mine" in caller.upstream(attack, **tree.policy).stdout
    told = caller.run(attack, **tree.policy)
    assert "mine" not in told.stdout
    assert "denied" in told.stderr or "Read-only" in told.stderr


def test_a_relative_path_is_no_way_around_a_denial(caller: Caller, tree: Tree) -> None:
    told = caller.attempt("true", read_only=[tree.top], denied=["secret"])
    assert told.error and "relative" in told.stderr, told
