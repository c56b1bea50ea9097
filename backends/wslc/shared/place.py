"""Where the shared machines of an owner are found: a folder each, with a lock that their process holds.

Root has ``/run/mxc-ops/utility``, a user the same below the XDG directories. Nobody else may look at it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from contextlib import suppress

from backends.errors import BackendUnavailable, Problem
from backends.linux.numbers import RUN_DIRECTORY

__all__ = ["connect", "hold", "listen", "machines_folder", "open_folder", "remove", "sweep"]

_LOCK, _SOCKET = "lock", "socket"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BACKLOG = 64


def machines_folder() -> str:
    """The folder of whoever we are."""
    if os.geteuid() == 0:
        return f"{RUN_DIRECTORY}/utility"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.path.isdir(runtime):
        return f"{runtime}/mxc-ops/utility"
    state = os.environ.get("XDG_STATE_HOME", "")
    return f"{state if state.startswith('/') else os.path.expanduser('~/.local/state')}/mxc-ops/utility"


def open_folder(key: str) -> int:
    """That of one machine, made if it is not there; the caller closes it.

    Raises `BackendUnavailable` when somebody else owns it, or what it is in, or may change it.
    """
    above = machines_folder()
    try:
        os.makedirs(os.path.dirname(above), mode=0o755, exist_ok=True)
        for path in (above, f"{above}/{key}"):
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
        for path, closed in ((os.path.dirname(above), 0o022), (above, 0o077)):
            _check(os.stat(path, follow_symlinks=False), path, closed)
        folder = os.open(f"{above}/{key}", _DIRECTORY)
        try:
            _check(os.fstat(folder), f"{above}/{key}", 0o077)
        except BaseException:
            os.close(folder)
            raise
    except OSError as error:
        message = f"{above} cannot be used: {error.strerror}"
        problem = Problem("shared_vm_folder", "", message, fix=f"ls -ld {above}")
        raise BackendUnavailable(problem, retryable=error.errno == errno.ENOENT) from error
    return folder


def hold(folder: int) -> int:
    """The lock of a machine that no process has, from now on ours until it is closed; -1: one has it."""
    try:
        lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except FileNotFoundError:  # the folder is being removed
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.stat(_LOCK, dir_fd=folder, follow_symlinks=False)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return -1


def listen(folder: int) -> socket.socket:
    """Where a machine is asked, for who holds it. Named through the descriptor: a path may be too long."""
    with suppress(FileNotFoundError):
        os.unlink(_SOCKET, dir_fd=folder)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.setblocking(False)
    server.bind(f"/proc/self/fd/{folder}/{_SOCKET}")
    server.listen(_BACKLOG)
    return server


def connect(folder: int) -> socket.socket | None:
    """A connection to the machine's process; None when there is none, or it is too busy just now."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{_SOCKET}")
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        sock.close()
        return None
    except BaseException:
        sock.close()
        raise
    return sock


def remove(folder: int) -> None:
    """The folder and what is in it, for who holds it."""
    for name in (_SOCKET, _LOCK):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    path = os.readlink(f"/proc/self/fd/{folder}")
    with suppress(OSError):  # somebody who starts the next one has put a lock there meanwhile
        os.rmdir(path)


def sweep() -> tuple[str, ...]:
    """Remove the folders of machines whose process was killed; their paths."""
    above = machines_folder()
    removed: list[str] = []
    with suppress(FileNotFoundError):
        for key in os.listdir(above):
            with suppress(OSError):
                folder = os.open(f"{above}/{key}", _DIRECTORY)
                try:
                    lock = hold(folder)
                    if lock >= 0:
                        remove(folder)
                        os.close(lock)
                        removed.append(f"{above}/{key}")
                finally:
                    os.close(folder)
    return tuple(removed)


def _check(status: os.stat_result, path: str, closed: int) -> None:
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & closed:
        message = f"{path} is not ours alone"
        raise BackendUnavailable(Problem("shared_vm_folder", "", message, fix=f"ls -ld {path}"))
