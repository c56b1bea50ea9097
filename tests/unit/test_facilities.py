"""The facilities that other tests stand on."""

from __future__ import annotations

import os
from pathlib import Path

from tests.conftest import User


def test_the_user_has_no_rights_and_can_import_the_project(as_user: User) -> None:
    done = as_user("import os, backends.base, pydantic; print(os.getuid(), os.getgroups(), os.getcwd())")
    expected = [] if os.geteuid() == 0 else os.getgroups()
    assert done.stdout == f"{as_user.uid} {expected} {as_user.home}\n", done.stderr


def test_the_user_may_write_at_home_and_not_beside_it(as_user: User) -> None:
    as_user(["sh", "-c", "touch mine; touch /usr/theirs"])
    assert (as_user.home / "mine").exists()
    assert not Path("/usr/theirs").exists()


def test_input_reaches_the_command_and_output_comes_back(as_user: User) -> None:
    done = as_user(["sh", "-c", "cat; echo problem >&2; exit 3"], stdin="données")
    assert (done.stdout, done.stderr, done.returncode) == ("données", "problem\n", 3)


def test_samples_are_found(shared_dir: Path) -> None:
    assert any((shared_dir / "mxc-samples").rglob("*.json"))
