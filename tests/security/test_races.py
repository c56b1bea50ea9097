"""Paths that change while a sandbox is started (upstream-gaps.md F6, F8)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.security.callers import Caller

SECRET = "the-secret-c2d7"
CLEAR_ERRORS = ("object_changed", "path_unresolved", "policy_lost")


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
def swapping(caller: Caller, probe: Path, one: Path, other: Path) -> Generator[None]:
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
        answer = told.codes[0] if told.codes else told.stdout
        assert SECRET not in told.said, f"leaked after {answers}"
        answers[answer] = answers.get(answer, 0) + 1
    return answers


@pytest.fixture
def times(soak: bool, caller: Caller) -> int:
    """The starts of sessions and containers are slower, and in all that is raced for the same as a run's by
    bubblewrap."""
    return (400 if soak else 40) // (4 if caller.session or caller.own_system else 1)


@pytest.mark.parametrize("access", ["read_only", "read_write"])
def test_a_granted_directory_that_becomes_a_link_to_a_private_one(
    caller: Caller, tree: Tree, probe: Path, times: int, access: str
) -> None:
    attack = f"cat {tree.work}/file"
    policy = {access: [tree.work], "denied": [tree.private]}
    with swapping(caller, probe, tree.work, tree.link):
        leaks = sum(
            SECRET in caller.upstream(attack, ends=False, **{access: [tree.work]}).stdout for _ in range(40)
        )
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
            assert not told.codes or told.codes[0] in CLEAR_ERRORS, told
            if not told.error:
                text, number = told.stdout.split()
                assert numbers[text] == int(number)


def test_a_granted_file_that_becomes_a_link(caller: Caller, tree: Tree, probe: Path, times: int) -> None:
    file, link = tree.work / "file", tree.work / "link"
    link.symlink_to("../private/file")
    os.chown(link, caller.uid, caller.gid, follow_symlinks=False)
    policy = {"read_only": [file], "denied": [tree.private / "file"]}
    with swapping(caller, probe, file, link):
        leaks = sum(
            SECRET in caller.upstream(f"cat {file}", ends=False, read_only=[file]).stdout for _ in range(40)
        )
        answers = _race(caller, times, f"cat {file}", **policy)
    assert leaks
    assert set(answers) <= {"harmless\n", "", *CLEAR_ERRORS}, answers


# Checks and plans while all is in its place, and starts while the names are exchanged.
_LAUNCH_WHILE_SWAPPING = """
import os
import subprocess
from mxc_ops import MxcError, Policy, prepare
from mxc_ops.ends import Ends

def main(probe, one, other, times, command, policy):
    answers, denied = [], os.lstat(one).st_ino
    for _ in range(times):
        with prepare(Policy(containment=CONTAINMENT, **policy).request(command)) as prepared:
            swap = [probe, f"swap={one},{other}"]
            swapper = subprocess.Popen(swap, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            try:
                answers.append(prepared.run(Ends()).stdout.decode())
            except MxcError as error:
                answers.append(f"{error.problems[0].code}: {error}")
            finally:
                swapper.communicate()
        # An odd number of exchanges leaves the names the wrong way round.
        if os.lstat(one).st_ino != denied:
            program([probe, f"exchange={one},{other}"])
    return answers
"""


@pytest.mark.parametrize("other", ["directory", "link"])
def test_a_denied_directory_that_changes_its_name(
    caller: Caller, tree: Tree, probe: Path, times: int, other: str
) -> None:
    """Granted with its parent: were something else masked in its place, the other name would show it."""
    second = tree.top / "second"
    if other == "directory":
        second.mkdir()
    else:
        second.symlink_to("work")
    os.chown(second, caller.uid, caller.gid, follow_symlinks=False)
    _launch_while_swapping(
        caller,
        probe,
        tree.private,
        second,
        times,
        "file",
        {"read_only": [tree.top], "denied": [tree.private]},
    )


def test_a_denied_file_that_changes_its_name(caller: Caller, tree: Tree, probe: Path, times: int) -> None:
    second = tree.private / "second"
    second.write_text("harmless\n")
    os.chown(second, caller.uid, caller.gid)
    file = tree.private / "file"
    _launch_while_swapping(
        caller, probe, file, second, times, "", {"read_only": [tree.private], "denied": [file]}
    )


def _launch_while_swapping(
    caller: Caller, probe: Path, denied: Path, second: Path, times: int, name: str, policy: dict[str, Any]
) -> None:
    attack = f"cat {denied / name} {second / name}"
    with swapping(caller, probe, denied, second):
        leaks = any(SECRET in caller.upstream(attack, ends=False, **policy).stdout for _ in range(400))
    assert leaks, "bare bubblewrap masks whatever has the name at that moment"
    source = _LAUNCH_WHILE_SWAPPING
    answers = caller.call(
        source, probe=probe, one=denied, other=second, times=times, command=attack, policy=policy
    )
    assert not [answer for answer in answers if SECRET in answer], answers
    right_or_clear = ("harmless\n", *(f"{code}: " for code in CLEAR_ERRORS))
    assert not [answer for answer in answers if answer and not answer.startswith(right_or_clear)]
