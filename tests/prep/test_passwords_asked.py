"""Passwords are asked for where somebody can see the question, and nowhere else."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

MXC_OPS = str(Path(sys.executable).with_name("mxc-ops"))
ESCAPE = "\x1b"
QUESTION = "password for sudo: "
_SILENCE_S = 60
COMMANDS = (["prep", "verify"], ["prep", "host"], ["doctor"])


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.py"
    path.write_text("hosts = ['@chroot/nowhere']\n")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_draws_over_the_question(command: list[str], inventory: Path) -> None:
    ours, theirs = os.openpty()
    argv = ["setsid", "--ctty", MXC_OPS, *command, "--inventory", str(inventory), "--ask-sudo-password"]
    child = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    shown = _shown(ours, until=QUESTION)
    os.write(ours, b"correct-horse\n")
    after = _shown(ours)
    os.close(ours)
    assert child.wait(timeout=60) == 1, after
    assert shown.endswith(QUESTION)
    assert ESCAPE not in shown
    assert "@chroot/nowhere: unreachable" in after
    assert "correct-horse" not in after


def _shown(terminal: int, until: str = "") -> str:
    """What a terminal shows, up to this end or its last."""
    seen = ""
    while not (until and seen.endswith(until)) and select.select([terminal], [], [], _SILENCE_S)[0]:
        try:
            seen += os.read(terminal, 65536).decode()
        except OSError:  # EIO: the last writer is gone (pty(7))
            break
    return seen


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--ask-sudo-password", "--ask-ssh-password"])
def test_without_a_terminal_the_command_line_is_wrong(command: list[str], flag: str, inventory: Path) -> None:
    done = subprocess.run(
        [MXC_OPS, *command, "--inventory", str(inventory), flag],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout) == (64, ""), done.stderr
    assert f"{flag}: a terminal is needed to be asked for a password" in done.stderr
    assert "Traceback" not in done.stderr
