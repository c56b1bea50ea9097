"""`mxc-ops session …` for the tests of the command line: one caller, and the sandboxes that the test made."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e.commands import DEADLINE_S, MXC_OPS, Commands

__all__ = ["SessionCommands"]


class SessionCommands:
    """`env` is what each command has besides the caller's own: places for a store of the test's own."""

    def __init__(self, caller: Commands, env: Mapping[str, str] | None = None) -> None:
        self.caller = caller
        self.env = dict(env or {})
        self.made: list[str] = []

    def run(self, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.caller.run(MXC_OPS, "session", *words, stdin=stdin, env=self.env)

    def start(self, *words: str, **streams: int) -> subprocess.Popen[bytes]:
        return self.caller.start(MXC_OPS, "session", *words, env=self.env, **streams)

    def __call__(self, *words: str, code: int = 0, stdin: str | None = None) -> str:
        """What is answered on standard output."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout

    def json(self, *words: str) -> dict[str, Any]:
        return json.loads(self(*words, "--json"))

    def provision(self, *words: str, stdin: str | None = None) -> str:
        identifier = self("provision", *words, stdin=stdin).strip()
        self.made.append(identifier)
        return identifier

    def running(self, *words: str) -> str:
        identifier = self.provision("--backend", "bubblewrap", *words)
        self("start", identifier)
        return identifier

    def detached(self, identifier: str, line: str, *flags: str) -> str:
        """The number of a line for the shell."""
        return self("exec", "--detach", *flags, identifier, "--", "sh", "-c", line).strip()

    def grant(self, name: str) -> Path:
        """A directory that commands may write to, whoever they are inside."""
        folder = self.caller.folder / name
        folder.mkdir(exist_ok=True)
        self.caller.own(folder)
        folder.chmod(0o777)
        return folder

    def on_a_terminal(
        self, *words: str, typed: str = "", own: bool = True, verb: tuple[str, ...] = ("session",)
    ) -> tuple[int, str]:
        """Exit code, and what a terminal of 31 rows and 101 columns showed.

        `own`: it is the caller's, who may open it again by its name; not so after su(1).
        """
        master, slave = pty.openpty()
        try:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 101, 0, 0))
            if own:
                self.caller.own(Path(os.ttyname(slave)))
            child = self.caller.start(
                MXC_OPS, *verb, *words, env=self.env, stdin=slave, stdout=slave, stderr=slave
            )
            os.close(slave)
            os.write(master, typed.encode())
            try:
                shown = _all_shown(master)
            except BaseException:
                child.kill()
                raise
            finally:
                code = child.wait(DEADLINE_S)
            return code, shown
        finally:
            os.close(master)

    def close(self) -> None:
        if self.made:
            self.run("deprovision", *self.made)


def _all_shown(master: int) -> str:
    """Until nobody has the terminal open any more, which is told as EIO."""
    shown = b""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert select.select([master], [], [], max(0.0, deadline - time.monotonic()))[0], shown
        try:
            shown += os.read(master, 65536)
        except OSError:
            return shown.decode()
