"""Tool paths and the private temporary directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mxc_ops import private_tmp, tool_paths, user_profile_paths


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    for name in ("bin", "go", "lib1", "lib2", "home/.local/bin", "home/tools"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def environ(tools: Path, **variables: str) -> dict[str, str]:
    return {"HOME": str(tools / "home"), **variables}


def test_path_lists_and_single_directories_are_taken_in_order_without_repeats(tools: Path):
    variables = environ(
        tools,
        PATH=f"{tools}/bin:{tools}/missing:{tools}/bin/",
        NODE_PATH=f"{tools}/lib1:{tools}/lib2",
        GOROOT=f"{tools}/go",
    )
    assert tool_paths(variables) == [f"{tools}/{name}" for name in ("bin", "lib1", "lib2", "go")]


def test_a_link_into_a_critical_directory_is_dropped_and_others_are_resolved(tools: Path):
    (tools / "sneaky").symlink_to("/etc")
    (tools / "system").symlink_to("/usr/bin")
    (tools / "fine").symlink_to(tools / "go")
    variables = environ(tools, PATH=f"{tools}/sneaky:{tools}/system:{tools}/fine")
    assert tool_paths(variables) == [f"{tools}/go"]


@pytest.mark.parametrize(
    "entry",
    ["", ".", "bin", "/", "/usr", "/usr/bin", "/bin", "/sbin", "/proc/self", "/dev/shm", "/sys", "/nowhere"],
)
def test_critical_relative_and_missing_directories_are_dropped(tools: Path, entry: str):
    assert tool_paths(environ(tools, PATH=entry, JAVA_HOME=entry)) == []


def test_a_directory_that_holds_the_home_is_dropped_and_one_below_it_kept(tools: Path):
    variables = environ(tools, PATH=f"{tools}/home:{tools}:{tools}/home/tools")
    assert tool_paths(variables) == [f"{tools}/home/tools"]


def test_files_are_not_directories(tools: Path):
    (tools / "file").touch()
    assert tool_paths(environ(tools, PATH=f"{tools}/file")) == []


def test_our_own_environment_is_the_default():
    assert tool_paths() == tool_paths(os.environ)


def test_profile_paths_are_those_that_exist(tools: Path):
    assert user_profile_paths(environ(tools)) == [f"{tools}/home/.local/bin"]


def test_a_private_directory_is_ours_alone_and_goes_with_all_that_is_in_it(tmp_path: Path):
    with private_tmp(tmp_path) as folder:
        mode = stat.S_IMODE(Path(folder).stat().st_mode)
        Path(folder, "deep/er").mkdir(parents=True)
        Path(folder, "deep/er/file").touch()
    assert mode == 0o700
    assert not list(tmp_path.iterdir())


def test_a_private_directory_goes_although_an_error_ends_the_block(tmp_path: Path):
    with pytest.raises(LookupError), private_tmp(tmp_path):
        raise LookupError
    assert not list(tmp_path.iterdir())


def test_removal_follows_no_link_out_of_the_directory(tmp_path: Path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "parent").mkdir()
    with private_tmp(tmp_path / "parent") as folder:
        Path(folder, "link").symlink_to(tmp_path / "kept")
    assert (tmp_path / "kept/file").exists()
