"""Bare bubblewrap with the flags that our own plan has: what every figure is held against."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mxc_ops import Policy, prepare


class BareBwrap:
    """Starts ``bwrap`` through `subprocess` with the options of a plan without grants.

    The files that the plan makes are written once, and opened for every run.
    """

    def __init__(self, folder: Path) -> None:
        with prepare(Policy().request(["true"])) as prepared:
            self._options: tuple[str, ...] = prepared.plan.options
            self._helper: str = prepared.plan.helper
            self._files: dict[str, Path] = {}
            for number, file in enumerate(prepared.plan.files):
                self._files[file.token] = folder / str(number)
                self._files[file.token].write_text(file.content)

    def run(self, command: Sequence[str], stdout: int = subprocess.PIPE) -> bytes:
        """Run to a successful end; what was captured of standard output. Standard error is captured too."""
        opened = {token: os.open(path, os.O_RDONLY) for token, path in self._files.items()}
        try:
            options = [str(opened[option]) if option in opened else option for option in self._options]
            # --as-pid-1 is for the launcher, which reaps; a plain command needs bubblewrap's own init.
            argv = [self._helper, *(option for option in options if option != "--as-pid-1"), "--", *command]
            fds = list(opened.values())
            done = subprocess.run(
                argv, pass_fds=fds, env={}, check=True, stdout=stdout, stderr=subprocess.PIPE
            )
            return done.stdout
        finally:
            for fd in opened.values():
                os.close(fd)


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mxc-bench-")
