"""Whoever of a session is killed, at whatever moment: it is usable or stale, and nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mxc_ops.session.service import Sessions
from tests.conftest import CHECKOUT
from tests.images import image
from tests.security.host import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="control groups are made by root")

HIERARCHIES = [Path("/sys/fs/cgroup", name) for name in ("pids", "memory", "freezer", "cpu", "unified", "")]
ROUNDS = {"bubblewrap": 70, "lxc": 70, "vm": 60}
FOLDERS = (Path("/run/mxc-ops/sessions"), Path("/var/lib/mxc-ops/sessions"))


@pytest.fixture
def groups() -> Iterator[list[Path]]:
    """Control groups for all that a test starts."""
    name = f"mxc-test-{os.getpid()}-{time.monotonic_ns()}"
    parents = [parent for parent in HIERARCHIES if (parent / "cgroup.procs").exists()]
    made = [parent / name for parent in parents]
    for group in made:
        group.mkdir()
    yield made
    for group in made:
        for pid in members(group):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda group=group: not members(group), "something cannot be killed")
        for below in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            below.rmdir()
        group.rmdir()


def members(group: Path) -> list[int]:
    return [int(pid) for file in group.rglob("cgroup.procs") for pid in file.read_text().split()]


def said(pids: list[int]) -> list[str]:
    words: list[str] = []
    for pid in pids:
        with suppress(OSError):
            words.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    return words


def names(folders: tuple[Path, ...]) -> set[str]:
    return {str(path) for folder in folders if folder.exists() for path in folder.iterdir()}


def mounts() -> set[str]:
    return set(Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.mark.parametrize("backend", [pytest.param(name, marks=pytest.mark.backend(name)) for name in ROUNDS])
def test_anybody_killed_at_any_moment(backend: str, groups: list[Path], soak: bool, tmp_path: Path) -> None:
    if backend != "bubblewrap":
        image("base")
    (tmp_path / "files").mkdir()
    (tmp_path / "files/one").write_bytes(b"x" * 100_000)
    before = names(FOLDERS), mounts()
    rounds = ROUNDS[backend] // (1 if soak else 10)
    arguments = (backend, rounds, f"{backend} 1", tmp_path / "files")
    command = [sys.executable, "-m", "tests.e2e.session_rounds", *map(str, arguments)]

    def enter() -> None:
        for group in groups:
            (group / "cgroup.procs").write_text("0")

    done = subprocess.run(
        command, cwd=CHECKOUT, preexec_fn=enter, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert sum(json.loads(done.stdout).values()) == rounds
    for group in groups:
        wait_until(lambda group=group: not members(group), f"left: {said(members(group))}")
        assert [path for path in group.rglob("*") if path.is_dir()] == []
    Sessions().gc()
    assert names(FOLDERS) - before[0] == set()
    assert mounts() - before[1] == set()
