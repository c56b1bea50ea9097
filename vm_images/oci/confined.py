"""Programs of others that read what somebody hostile may have made: in namespaces of their own, under limits.

They are root of a user namespace (`users_namespace`) and nobody outside it, see /usr and what they are shown,
and have no network, but for who fetches an image.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import IO

from backends.errors import PrepFailed, Problem
from backends.frozen import frozen
from vm_images.oci.users_namespace import PREP_FIX, ImageUsers
from vm_images.tools import find_tool, run_tool

__all__ = ["View", "run_confined", "stream_confined"]

_MEMORY_BYTES = 4 << 30
"""Of addresses, not of memory: a program in Go reserves far more than it uses."""
_OPEN_FILES = 1024
_CPU_S = 1800
_PIECE, _SAID, _END_S = 1 << 20, 4096, 60
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_TEMPORARY_BYTES = 256 << 20
_OWNERSHIP = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID")
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin")
_NETWORK = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/containers"),
)
_TEMPORARY = "/tmp"  # noqa: S108 - of the sandbox
_ENVIRONMENT = {"HOME": _TEMPORARY, "TMPDIR": _TEMPORARY}


@frozen
class View:
    """What a program sees and may do.

    Parameters
    ----------
    shown, writable: path inside → host path.
    memory: path inside → bytes that a file system in memory may have there.
    owners: whether it may give files to other users of its namespace, and read theirs.
    network: whether it has the host's.
    file_bytes: how large a file may become that it writes.
    """

    shown: Mapping[str, Path] = {}
    writable: Mapping[str, Path] = {}
    memory: Mapping[str, int] = {}
    owners: bool = False
    network: bool = False
    file_bytes: int = 1 << 20


def run_confined(
    words: Sequence[str],
    users: ImageUsers,
    view: View,
    *,
    deadline_s: float,
    environment: Mapping[str, str] | None = None,
    name: str = "",
    watch: Callable[[], None] | None = None,
) -> bytes:
    """Run a program to its end; returns what it wrote to standard output. It dies with us.

    Parameters
    ----------
    name: what people call it, where that is not its first word.
    watch: see `run_tool`.

    Raises `BackendUnavailable` where it is not installed, `PrepFailed` when it fails.
    """
    return run_tool(
        _command(words, users, view),
        deadline_s=deadline_s,
        environment={**_ENVIRONMENT, **(environment or {})},
        keep=(users.namespace,),
        name=name or words[0],
        watch=watch,
    )


def stream_confined(words: Sequence[str], users: ImageUsers, source: IO[bytes]) -> Generator[bytes]:
    """What a program makes of a stream, piece by piece; it is killed when nobody wants more.

    Raises `PrepFailed` after the last piece when it failed, with its last words.
    """
    child = subprocess.Popen(
        _command(words, users, View()),
        stdin=source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": _PATH, **_ENVIRONMENT},
        start_new_session=True,
        pass_fds=(users.namespace,),
    )
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        while piece := child.stdout.read(_PIECE):
            yield piece
        said = child.stderr.read(_SAID).decode(errors="replace").strip()
        if child.wait(_END_S):
            raise PrepFailed(Problem("image_tool_failed", "", f"{words[0]} failed: {said}"))
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def _command(words: Sequence[str], users: ImageUsers, view: View) -> list[str]:
    limits = {
        "as": _MEMORY_BYTES,
        "core": 0,
        "cpu": _CPU_S,
        "fsize": view.file_bytes,
        "nofile": _OPEN_FILES,
    }
    return [
        find_tool("nsenter", fix=PREP_FIX),
        *(f"--user=/proc/self/fd/{users.namespace}", "--setuid=0", "--setgid=0", "--"),
        *(find_tool("prlimit", fix=PREP_FIX), *(f"--{name}={value}" for name, value in limits.items()), "--"),
        *(find_tool("bwrap", fix=PREP_FIX), "--die-with-parent", "--new-session"),
        *("--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"),
        *(() if view.network else ("--unshare-net",)),
        *("--cap-drop", "ALL"),
        *(word for name in _OWNERSHIP if view.owners for word in ("--cap-add", name)),
        *(word for path in _SYSTEM for word in ("--ro-bind-try", path, path)),
        *(word for path in _NETWORK if view.network for word in ("--ro-bind-try", path, path)),
        *("--proc", "/proc", "--dev", "/dev"),
        *(
            word
            for inside, size in {_TEMPORARY: _TEMPORARY_BYTES, **view.memory}.items()
            for word in ("--size", str(size), "--tmpfs", inside)
        ),
        *(word for inside, path in view.shown.items() for word in ("--ro-bind", str(path), inside)),
        *(word for inside, path in view.writable.items() for word in ("--bind", str(path), inside)),
        *("--chdir", "/", "--", find_tool(words[0], fix=PREP_FIX), *words[1:]),
    ]
