"""`mxc-ops` and `mxc-exec` as real processes, run by root or by a user without rights."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.conftest import User

MXC_OPS = "mxc-ops"
MXC_EXEC = "mxc-exec"
DEADLINE_S = 60


class Commands:
    """One caller. `folder` is a directory of the caller's own; `home` holds the verdicts on documents."""

    def __init__(self, name: str, user: User) -> None:
        self.name = name
        self._user = user
        self._unprivileged = name == "user" and os.geteuid() == 0
        self.folder = Path(tempfile.mkdtemp(prefix=f"mxc-ops-cli-{name}-"))
        self.home = self.folder / "home"
        self.home.mkdir()
        if self._unprivileged:
            for path in (self.folder, self.home):
                os.chown(path, user.uid, user.gid)

    def run(
        self,
        program: str,
        *arguments: str | Path,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; standard input is `stdin` or empty."""
        child = self.start(program, *arguments, stdin=subprocess.PIPE, env=env)
        try:
            out, err = child.communicate((stdin or "").encode(), timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise
        return subprocess.CompletedProcess(child.args, child.returncode, out.decode(), err.decode())

    def start(
        self,
        program: str,
        *arguments: str | Path,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start one of the two programs; the streams may be descriptors."""
        return self.start_argv([self.program(program), *map(str, arguments)], stdin, stdout, stderr, env)

    def program(self, name: str) -> str:
        """Path of one of the two programs, where the caller may run it."""
        return str(self._user.tree / "bin" / name)

    def start_argv(
        self,
        argv: Sequence[str],
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=self.folder,
            env={**self._user.environment, "HOME": str(self.home), **(env or {})},
            user=self._user.uid if self._unprivileged else None,
            group=self._user.gid if self._unprivileged else None,
            extra_groups=() if self._unprivileged else None,
        )

    def config(self, body: Mapping[str, Any] | str, name: str = "config.json") -> Path:
        """A config file in `folder`."""
        path = self.folder / name
        path.write_text(body if isinstance(body, str) else json.dumps(body))
        return path

    def own(self, path: Path) -> Path:
        """Give something that the test made in `folder` to the caller."""
        if self._unprivileged:
            os.chown(path, self._user.uid, self._user.gid)
        return path


def one_shot(command: str = "echo hello", **fields: Any) -> dict[str, Any]:
    """A minimal document."""
    return {"version": "1.0.0", "containment": "bubblewrap", "process": {"commandLine": command}} | fields


def processes_with(*argv: str) -> list[int]:
    """Processes with exactly these arguments, in any sandbox."""
    wanted = "\0".join((*argv, "")).encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (entry / "cmdline").read_bytes() == wanted:
                    found.append(int(entry.name))
    return found


def processes_of(uid: int | None, mark: bytes) -> list[int]:
    """Processes of that user, or of anybody, that have this in one of their arguments."""
    pids: list[int] = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            of_user = entry.name.isdigit() and uid in (None, entry.stat().st_uid)
            if of_user and mark in (entry / "cmdline").read_bytes():
                pids.append(int(entry.name))
    return pids


def children() -> set[str]:
    """Process ids of the children of this process, ended ones that nobody has waited for among them."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found |= set((task / "children").read_text().split())
    return found


def wait_until(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
    """Poll until `condition()` holds; fails with `what` when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
