"""A container for a moment, to see whether containers work here.

Its root filesystem is read-only, it has no network, and it ends by itself, should its owner be killed.
Keys: lxc.container.conf(5).
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from shlex import join, quote
from types import TracebackType

from backends.linux.mountinfo import read_mountinfo

__all__ = ["Trial", "said"]

_LOCKS = "/run/lxc/lock"
"""Where LXC's tools have a file for each container, named by its path, and leave it."""
_DEADLINE_S = 20
_LIFE_S = 120
_MOMENT_S = 5
# A string doubled in a shell, by builtins alone, to 64 MiB: twice the limit, and harmless where none holds.
_GROW = "x=x; i=0; while [ $i -lt 26 ]; do x=$x$x; i=$((i+1)); done"
_FORK = "i=0; while [ $i -lt 32 ]; do sleep 5 >/dev/null 2>&1 & i=$((i+1)); done"
_IDENTITY = "read first mapped rest < /proc/self/uid_map; echo $first $mapped"
_EXCESSES = {"memory": _GROW, "pids": _FORK}
_LIMITS = {
    "v1": {
        "memory": ("lxc.cgroup.memory.limit_in_bytes = 32M", "lxc.cgroup.memory.swappiness = 0"),
        "pids": ("lxc.cgroup.pids.max = 16",),
    },
    "v2": {
        "memory": ("lxc.cgroup2.memory.max = 32M", "lxc.cgroup2.memory.swap.max = 0"),
        "pids": ("lxc.cgroup2.pids.max = 16",),
    },
    "none": {},
}


class Trial:
    """A running container, as a context; `refused` says why there is none, "" when there is.

    Once it has ended, `left_behind` has the paths that could not be removed.
    """

    def __init__(self, rootfs: str, ids: tuple[int, int], version: str, controllers: Collection[str]) -> None:
        """Only notes what is wanted.

        Parameters
        ----------
        rootfs: a directory that everybody may search.
        ids: where the uids and gids begin that its own are mapped to; 65536 of each.
        version, controllers: of the control groups that can be made here, see `cgroups.CgroupFacts`.
        """
        self.rootfs, self.ids = rootfs, ids
        self.refused = ""
        self.left_behind: list[str] = []
        self._name = f"mxc-ops-trial-{secrets.token_hex(8)}"
        limits = [key for name, keys in _LIMITS[version].items() if name in controllers for key in keys]
        self._config = "\n".join([*_keys(self._name, rootfs, *ids), *limits, ""])

    def __enter__(self) -> Trial:
        self._path = tempfile.mkdtemp(prefix="mxc-ops-trial-", dir="/run")
        os.chmod(self._path, 0o711)  # noqa: S103 - the container's mapped root searches it
        try:
            folder = f"{self._path}/{self._name}"
            os.mkdir(folder)
            with open(f"{folder}/config", "w", encoding="utf-8") as file:
                file.write(self._config)
            done = _run(self._tool("lxc-start", "-d", "-o", f"{self._path}/log", "-l", "ERROR"))
            if done is None or done.returncode != 0:
                self.refused = _first_error(f"{self._path}/log") or "lxc-start gave no reason"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def identity(self) -> str:
        """The first line of its map of uids: the first uid inside, and what it is on the host."""
        return self._said_inside(_IDENTITY).strip()

    def bitten(self) -> list[str]:
        """The controllers whose limit stopped an excess inside."""
        return [
            name
            for name, excess in _EXCESSES.items()
            if self._said_inside(f"echo begun; {excess}; echo done").split() == ["begun"]
        ]

    @property
    def removal(self) -> str:
        """The command that ends and removes what stayed behind."""
        groups = [path for path in self.left_behind if path != self._path]
        return "; ".join(
            [
                join(self._tool("lxc-stop", "--kill")),
                f"rm -rf {self._path}",
                *(f"find {quote(group)} -depth -type d -exec rmdir {{}} +" for group in groups),
            ]
        )

    def _tool(self, tool: str, *arguments: str) -> list[str]:
        return [tool, "-P", self._path, "-n", self._name, *arguments]

    def _said_inside(self, script: str) -> str:
        done = _run(self._tool("lxc-attach", "--clear-env", "--", "/bin/sh", "-c", script))
        return "" if done is None else done.stdout

    def _end(self) -> None:
        """Never lxc-destroy(1): it removes a root filesystem with its container."""
        _run(self._tool("lxc-stop", "--kill"))
        for folder in (self._path, f"{_LOCKS}{self._path}"):
            shutil.rmtree(folder, ignore_errors=True)
        # LXC leaves the group "lxc.pivot" that it moves its monitor to, which may take a moment to end.
        until = time.monotonic() + _MOMENT_S
        while (groups := _groups(self._name)) and time.monotonic() < until:
            for group in groups:
                for folder, _, _ in os.walk(group, topdown=False):
                    with suppress(OSError):
                        os.rmdir(folder)
            time.sleep(0.02)
        self.left_behind = [path for path in (self._path, *groups) if os.path.exists(path)]


def _keys(name: str, rootfs: str, uid: int, gid: int) -> Iterator[str]:
    yield f"lxc.uts.name = {name}"
    yield f"lxc.rootfs.path = dir:{rootfs}"
    yield "lxc.rootfs.options = idmap=container,ro"
    yield f"lxc.idmap = u 0 {uid} 65536"
    yield f"lxc.idmap = g 0 {gid} 65536"
    yield "lxc.net.0.type = empty"
    yield "lxc.apparmor.profile = unconfined"
    yield "lxc.no_new_privs = 1"
    yield "lxc.autodev = 1"
    yield "lxc.tty.max = 0"
    yield "lxc.mount.auto = proc:mixed sys:ro"
    yield f"lxc.cgroup.dir = {name}"
    yield f"lxc.init.cmd = /bin/sleep {_LIFE_S}"


def _first_error(log: str) -> str:
    """What LXC complained about first; what follows is only that it could not go on."""
    with suppress(OSError), open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            # NAME TIME ERROR module - source:function:line - what happened
            if " ERROR " in line and "Unsupported config key" not in line:
                return line.split(" - ", 2)[-1].strip()
    return ""


def _groups(name: str) -> list[str]:
    """Control groups of this name, in every hierarchy."""
    points = {mount.point for mount in read_mountinfo() if mount.filesystem in ("cgroup", "cgroup2")}
    found: list[str] = []
    for point in sorted(points):
        for folder, below, _ in os.walk(point):
            if name in below:
                found.append(f"{folder}/{name}")
    return found


def said(command: Sequence[str]) -> str:
    """What a program prints on standard output; "" when it cannot be run, fails or takes too long."""
    done = _run(command)
    return done.stdout if done is not None and done.returncode == 0 else ""


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            cwd="/",
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
