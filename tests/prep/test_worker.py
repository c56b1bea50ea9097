"""The worker, and who started it: neither waits for the other in vain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MXC_OPS = str(Path(sys.executable).with_name("mxc-ops"))
_DEADLINE_S = 60


def one_that_says_nothing(folder: Path) -> Path:
    """An inventory of a host that answers every command with success and no word."""
    path = folder / "fleet.py"
    path.write_text("hosts = [('@fake/mute', {'fake_delay': 0, 'fake_delay_jitter': 0})]\n")
    return path


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
