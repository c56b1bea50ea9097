"""What cannot be set up ends in an error that names the caller's own argument and the way out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxc_ops import LaunchFailed, MxcError, Policy, PolicyRefused, run

pytestmark = pytest.mark.backend("bubblewrap")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and other users' ids: run as root")


def _error(policy: Policy, command: str | list[str]) -> MxcError:
    with pytest.raises(MxcError) as caught:
        run(policy, command)
    return caught.value


def test_a_working_directory_that_is_not_visible() -> None:
    error = _error(Policy(cwd="/nowhere"), "true")
    assert isinstance(error, PolicyRefused)
    assert (error.problems[0].code, error.path) == ("cwd_unusable", "cwd")


@pytest.mark.parametrize(
    ("program", "code"), [("/no/such", "program_not_found"), ("/etc/passwd", "program_not_executable")]
)
def test_a_program_that_cannot_be_executed(program: str, code: str) -> None:
    error = _error(Policy(), [program])
    assert isinstance(error, LaunchFailed)
    assert (error.problems[0].code, error.path) == (code, "command")


@needs_root
def test_the_overflow_user_is_nobodys() -> None:
    assert _error(Policy(user=65534), "true").path == "user"


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Path]:
    """An overlay file system, which this kernel cannot id-map."""
    parts = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for part in parts.values():
        part.mkdir()
    layers = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    mount = ["mount", "-t", "overlay", "overlay", "-o", layers, str(parts["merged"])]
    subprocess.run(mount, check=True)
    (parts["merged"] / "file").write_text("content\n")
    yield parts["merged"]
    subprocess.run(["umount", str(parts["merged"])], check=True)


@needs_root
def test_a_file_system_without_id_maps_is_refused_with_the_way_out(overlay: Path) -> None:
    error = _error(Policy(read_only=[overlay]), f"cat {overlay}/file")
    assert isinstance(error, PolicyRefused)
    assert (error.problems[0].code, error.path) == ("idmap_unsupported", "read_only[0]")
    named = run(Policy(read_only=[overlay], user=61234), f"cat {overlay}/file")
    assert named.stdout == b"content\n"


@needs_root
def test_more_open_files_than_our_own_hard_limit_is_held_by_that() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
        "from mxc_ops import Policy, Limits, run\n"
        "print(run(Policy(limits=Limits(open_files=5000)), 'ulimit -n').stdout.decode())"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "200"
