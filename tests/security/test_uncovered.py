"""What the host replaces under a mask, or under a read-only name in a read-write grant, is not left open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mxc_ops import PolicyLost, run
from tests.e2e.containments import BUBBLEWRAP, LXC, Containment
from tests.images import image

# Reads for 10 s at most: ended long before, or the change went unnoticed.
_READING = "n=0; while [ $n -lt 200 ]; do cat {path} 2>/dev/null; n=$((n+1)); sleep 0.05; done"


@pytest.fixture(
    params=[
        pytest.param(BUBBLEWRAP, id="bubblewrap", marks=pytest.mark.backend("bubblewrap")),
        pytest.param(LXC, id="lxc", marks=pytest.mark.backend("lxc")),
    ]
)
def contained(request: pytest.FixtureRequest) -> Containment:
    """Those in which grants are the host's own files."""
    containment: Containment = request.param
    if containment.own_system:
        image("base")
    return containment


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
    tmp_path: Path, contained: Containment, entry: str, change: Callable[[Path], None]
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    path = tree / "file"
    path.write_text("OLD")
    policy = (
        contained.policy(read_write=[tree], denied=[path])
        if entry == "denied"
        else contained.policy(read_write=[tree], read_only=[path])
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


def test_a_directory_that_the_host_renames_ends_the_sandbox(tmp_path: Path, contained: Containment) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    timer = threading.Timer(0.3, _move_away, [secret])
    timer.start()
    try:
        with pytest.raises(PolicyLost):
            run(contained.policy(read_only=[tmp_path], denied=[secret]), _READING.format(path=secret))
    finally:
        timer.join()


def test_changes_beside_the_covered_path_end_nothing(tmp_path: Path, contained: Containment) -> None:
    covered = tmp_path / "covered"
    covered.write_text("OLD")
    timer = threading.Timer(0.2, _replace, [tmp_path / "other"])
    timer.start()
    try:
        result = run(contained.policy(read_write=[tmp_path], denied=[covered]), "sleep 0.6; ls")
    finally:
        timer.join()
    assert result.exit_code == 0
