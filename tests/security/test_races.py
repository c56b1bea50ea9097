"""Paths that change while a sandbox is started (upstream-gaps.md F6, F8)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.security.callers import Caller

pytestmark = pytest.mark.backend("bubblewrap")

SECRET = "the-secret-c2d7"
CLEAR_ERRORS = ("launch_failed", "policy_refused")


@dataclass(frozen=True)
class Tree:
    """`work` is what the policy names; `private` holds the secret and is never granted."""

    top: Path
    work: Path
    private: Path
    link: Path


@pytest.fixture
def tree(place: Path, caller: Caller) -> Tree:
    made = Tree(place, place / "work", place / "private", place / "link")
    for folder in (made.work, made.private):
        folder.mkdir()
    (made.work / "file").write_text("harmless\n")
    (made.private / "file").write_text(f"{SECRET}\n")
    made.link.symlink_to("private")
    for path in (made.work, made.private, made.link, *made.work.iterdir(), *made.private.iterdir()):
        os.chown(path, caller.uid, caller.gid, follow_symlinks=False)
    return made


@contextmanager
def swapping(caller: Caller, probe: Path, one: Path, other: Path) -> Iterator[None]:
    """Two names exchanged, atomically and without a pause, from outside."""
    child = caller.popen([probe, f"swap={one},{other}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield
    finally:
        said, _ = child.communicate()
    assert said == b"swap ok\n"


def _race(caller: Caller, times: int, command: str, **policy: Any) -> dict[str, int]:
    """How often each answer came: standard output where it ran, the error's code where it did not."""
    answers: dict[str, int] = {}
    for _ in range(times):
        told = caller.attempt(command, **policy)
        answer = told.error or told.stdout
        assert SECRET not in told.said, f"leaked after {answers}"
        answers[answer] = answers.get(answer, 0) + 1
    return answers


@pytest.fixture
def times(soak: bool) -> int:
    return 400 if soak else 40


@pytest.mark.parametrize("access", ["read_only", "read_write"])
def test_a_granted_directory_that_becomes_a_link_to_a_private_one(
    caller: Caller, tree: Tree, probe: Path, times: int, access: str
) -> None:
    attack = f"cat {tree.work}/file"
    policy = {access: [tree.work], "denied": [tree.private]}
    with swapping(caller, probe, tree.work, tree.link):
        leaks = sum(SECRET in caller.upstream(attack, ends=False, **{access: [tree.work]}).stdout for _ in range(40))
        answers = _race(caller, times, attack, **policy)
    assert leaks, "bare bubblewrap binds whatever the name means at that moment"
    assert set(answers) <= {"harmless\n", "", *CLEAR_ERRORS}, answers


def test_a_granted_directory_exchanged_for_a_private_one(
    caller: Caller, tree: Tree, probe: Path, times: int
) -> None:
    """Whichever directory has the name when it is looked up is granted, and no other: never a mix of both."""
    attack = f"cat {tree.work}/file; stat -c %i {tree.work}"
    numbers = {"harmless": tree.work.stat().st_ino, SECRET: tree.private.stat().st_ino}
    with swapping(caller, probe, tree.work, tree.private):
        for _ in range(times):
            told = caller.attempt(attack, read_only=[tree.work])
            assert told.error in ("", *CLEAR_ERRORS)
            if not told.error:
                text, number = told.stdout.split()
                assert numbers[text] == int(number)


def test_a_granted_file_that_becomes_a_link(caller: Caller, tree: Tree, probe: Path, times: int) -> None:
    file, link = tree.work / "file", tree.work / "link"
    link.symlink_to("../private/file")
    os.chown(link, caller.uid, caller.gid, follow_symlinks=False)
    policy = {"read_only": [file], "denied": [tree.private]}
    with swapping(caller, probe, file, link):
        leaks = sum(SECRET in caller.upstream(f"cat {file}", ends=False, read_only=[file]).stdout for _ in range(40))
        answers = _race(caller, times, f"cat {file}", **policy)
    assert leaks
    assert set(answers) <= {"harmless\n", "", *CLEAR_ERRORS}, answers


@pytest.mark.parametrize("other", ["directory", "link"])
def test_a_denied_directory_that_changes_its_name(
    caller: Caller, tree: Tree, probe: Path, times: int, other: str
) -> None:
    """Granted with its parent: were another object masked in its place, it would be readable by the other name."""
    second = tree.top / "second"
    if other == "directory":
        second.mkdir()
    else:
        second.symlink_to("work")
    os.chown(second, caller.uid, caller.gid, follow_symlinks=False)
    attack = f"cat {tree.private}/file {second}/file"
    policy = {"read_only": [tree.top], "denied": [tree.private]}
    with swapping(caller, probe, tree.private, second):
        leaks = sum(SECRET in caller.upstream(attack, ends=False, **policy).stdout for _ in range(40))
        _race(caller, times, attack, **policy)
    assert leaks


def test_a_denied_file_that_changes_its_name(caller: Caller, tree: Tree, probe: Path, times: int) -> None:
    second = tree.private / "second"
    second.write_text("harmless\n")
    os.chown(second, caller.uid, caller.gid)
    attack = f"cat {tree.private}/file {second}"
    policy = {"read_only": [tree.private], "denied": [tree.private / "file"]}
    with swapping(caller, probe, tree.private / "file", second):
        leaks = sum(SECRET in caller.upstream(attack, ends=False, **policy).stdout for _ in range(40))
        _race(caller, times, attack, **policy)
    assert leaks
