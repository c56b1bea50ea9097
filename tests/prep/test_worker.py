"""The worker, and who started it: neither waits for the other in vain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.commands import wait_until

MXC_OPS = str(Path(sys.executable).with_name("mxc-ops"))
_DEADLINE_S = 60


def one_that_says_nothing(folder: Path, after_s: int = 0) -> Path:
    """An inventory of a host that answers every command with success and no word."""
    path = folder / "fleet.py"
    path.write_text(f"hosts = [('@fake/mute', {{'fake_delay': {after_s}, 'fake_delay_jitter': 0}})]\n")
    return path


def runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_reader_that_is_gone_ends_everything(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [MXC_OPS, "prep", "host", "--inventory", str(one_that_says_nothing(tmp_path)), "--json"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        timeout=_DEADLINE_S,
    )
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_worker_ends_with_whoever_started_it(tmp_path: Path) -> None:
    inventory = one_that_says_nothing(tmp_path, after_s=3600)
    controller = subprocess.Popen(
        [MXC_OPS, "prep", "host", "--inventory", str(inventory), "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert controller.stdout is not None
    assert controller.stdout.readline().startswith(b'{"event": "hosts"')
    (worker,) = map(int, Path(f"/proc/{controller.pid}/task/{controller.pid}/children").read_text().split())
    controller.kill()
    controller.communicate()
    wait_until(lambda: not runs(worker), "the worker goes on")
