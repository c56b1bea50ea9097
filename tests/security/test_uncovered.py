"""What the host replaces under a mask, or under a read-only name in a read-write grant, is not left open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mxc_ops import Policy, PolicyLost, run

pytestmark = pytest.mark.backend("bubblewrap")

# Reads for 10 s at most: ended long before, or the change went unnoticed.
_READING = "n=0; while [ $n -lt 200 ]; do cat {path} 2>/dev/null; n=$((n+1)); sleep 0.05; done"


def _replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_text("NEW")
    new.rename(path)


def _move_away(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def _remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [_replace, _move_away, _remove])
@pytest.mark.parametrize("entry", ["denied", "read_only"])
def test_a_sandbox_ends_when_the_host_uncovers_a_path(
    tmp_path: Path, entry: str, change: Callable[[Path], None]
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    path = tree / "file"
    path.write_text("OLD")
    policy = (
        Policy(read_write=[tree], denied=[path])
        if entry == "denied"
        else Policy(read_write=[tree], read_only=[path])
    )
    timer = threading.Timer(0.3, change, [path])
    timer.start()
    try:
        with pytest.raises(PolicyLost) as caught:
            run(policy, _READING.format(path=path))
    finally:
        timer.join()
    assert caught.value.path == f"{entry}[0]"
    assert caught.value.retryable


def test_a_directory_that_the_host_renames_ends_the_sandbox(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    timer = threading.Timer(0.3, _move_away, [secret])
    timer.start()
    try:
        with pytest.raises(PolicyLost):
            run(Policy(read_only=[tmp_path], denied=[secret]), _READING.format(path=secret))
    finally:
        timer.join()


def test_changes_beside_the_covered_path_end_nothing(tmp_path: Path) -> None:
    covered = tmp_path / "covered"
    covered.write_text("OLD")
    timer = threading.Timer(0.2, _replace, [tmp_path / "other"])
    timer.start()
    try:
        result = run(Policy(read_write=[tmp_path], denied=[covered]), "sleep 0.6; ls")
    finally:
        timer.join()
    assert result.exit_code == 0
