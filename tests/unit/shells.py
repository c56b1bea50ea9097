"""Shells that run commands for POSIX sh: dash (Debian), bash (Fedora, Arch), and busybox alone (Alpine)."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxc_ops.prep.receipts import Receipt, decode
from mxc_ops.prep.shells import Change

__all__ = ["NAMES", "Shell", "await_end", "await_true", "change", "read", "search_path"]

NAMES = ("dash", "bash", "busybox")
STATE, PROGRAMS = "/var/lib/mxc-ops", "/usr/local/lib/mxc-ops"
# busybox's flock knows no -w (util-linux/flock.c), and Debian's busybox has none: the real one, without it.
_FLOCK = """#!/bin/sh
for word; do case $word in -w*) echo 'flock: invalid option' >&2; exit 1 ;; -*) ;; *) break ;; esac; done
exec {flock} "$@"
"""


@dataclass(frozen=True)
class Shell:
    """One way to run commands.

    Parameters
    ----------
    state: what they keep below /var/lib/mxc-ops is kept there instead, and what they keep below
        /usr/local/lib/mxc-ops beside it, in `programs`.
    """

    path: str
    state: Path

    @property
    def programs(self) -> Path:
        return self.state.with_name("programs")

    def inside(self, command: str) -> str:
        return command.replace(STATE, str(self.state)).replace(PROGRAMS, str(self.programs))

    def start(self, command: str, *, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", "-c", self.inside(command)],
            executable=shutil.which("sh", path=self.path),
            env={"PATH": self.path},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, command: str) -> subprocess.CompletedProcess[str]:
        child = self.start(command)
        out, err = child.communicate(timeout=60)
        return subprocess.CompletedProcess(command, child.returncode, out, err)

    def receipt(self, item: str = "an.item") -> Receipt:
        return decode((self.state / f"receipts/{item}.json").read_text())

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.state / "receipts").iterdir())


def search_path(name: str, tools: Path) -> str:
    """A search path on which `sh` is the shell asked for; busybox's has nothing but busybox.

    Parameters
    ----------
    tools: an empty directory for it.

    Raises `FileNotFoundError` when that shell is not installed.
    """
    program = shutil.which(name)
    if program is None:
        raise FileNotFoundError(name)
    (tools / "sh").symlink_to(program)
    if name != "busybox":
        return f"{tools}:{os.environ['PATH']}"
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in {*applets} - {"sh", "flock"}:
        (tools / applet).symlink_to(program)
    (tools / "flock").write_text(_FLOCK.format(flock=shutil.which("flock")))
    (tools / "flock").chmod(0o755)
    return str(tools)


def change(*commands: str, **fields: Any) -> Change:
    receipt = Receipt("an.item", "an.operation", {"it's": 1}, by="somebody")
    return Change(fields.pop("receipt", receipt), commands, **fields)


def await_true(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.01)


def await_end(pid: int) -> None:
    """A killed process takes a moment to end; one that is not killed takes longer than we wait."""

    await_true(
        lambda: "\nState:\tZ" in read(f"/proc/{pid}/status") or not read(f"/proc/{pid}/status"),
        f"{pid} lives on",
    )


def read(path: str) -> str:
    """A file of a process that may be gone by now."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""
