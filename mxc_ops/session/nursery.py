"""Where supervisors come from: a process that has imported all that they need, and forks one for each start.

One is kept by every process that starts sandboxes, and ends with it; its supervisors do not. What it is sent
is one message for each: the containment, and with it the descriptors of `supervisor.main`.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from threading import Lock

from backends import process, registry
from backends.sessions import KeepsSessions

__all__ = ["MOST_DESCRIPTORS", "Nursery", "begin", "main", "nursery"]

MOST_DESCRIPTORS = 16
_MOST_WORD = 64
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Isolated from the caller's variables and folder; where we, and what we need, are imported from it must know.
_BOOT = (
    "import sys; number, containment, root, *others = sys.argv[1:];"
    " sys.path.insert(0, root); sys.path += others;"
    " from mxc_ops.session.nursery import main; main(int(number), containment)"
)
_ALWAYS = (
    *(f"mxc_ops.config.{name}" for name in ("asked", "canonical", "losses", "redaction", "request")),
    *(f"mxc_ops.config.{name}" for name in ("upgrades", "verdicts")),
    *(f"mxc_ops.policy.{name}" for name in ("command", "environment", "limit_ranges", "spelling", "system")),
    *(f"mxc_ops.{name}" for name in ("config_policy", "one_shot", "policy_builder", "policy_checks")),
    *("mxc_ops.session.supervisor", "mxc_ops.sources", "vm_images.store"),
)


class Nursery:
    """The process, as it is used by the one that keeps it."""

    def __init__(self, containment: str) -> None:
        """Start it; it begins to import what that containment's supervisors need. Raises `OSError`."""
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            others = (path for path in sys.path if path.startswith("/"))
            argv = (sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), containment, _ROOT, *others)
            self._child = process.spawn(argv, (null, null, null), (theirs.fileno(),))
        except BaseException:
            self._sock.close()
            raise
        finally:
            os.close(null)
            theirs.close()

    def start(self, containment: str, descriptors: list[int]) -> None:
        """Have it fork a supervisor. Raises `OSError` when it has gone."""
        socket.send_fds(self._sock, [containment.encode()], descriptors)

    def close(self) -> None:
        """It ends, once it has forked what it was told to."""
        self._sock.close()
        process.reap(self._child)
        os.close(self._child.pidfd)

    def forget(self) -> None:
        """In a fork of the process that keeps it: it must not be kept by it, too."""
        self._sock.close()
        os.close(self._child.pidfd)


_kept: tuple[Nursery, int] | None = None
_lock = Lock()


def nursery(containment: str, *, instead_of: Nursery | None = None) -> Nursery:
    """The one of this process and user; another one, when that turned out to be gone. Raises `OSError`."""
    global _kept  # noqa: PLW0603 - one for each process
    with _lock:
        if _kept is not None and (_kept[0] is instead_of or _kept[1] != os.geteuid()):
            _kept[0].close()
            _kept = None
        if _kept is None:
            _kept = (Nursery(containment), os.geteuid())
        return _kept[0]


def begin(containment: str) -> None:
    """Start the nursery, if there is none yet, while something else is done that goes before its use."""
    with suppress(OSError):  # whoever needs it meets that again
        nursery(containment)


def _forget() -> None:
    global _kept, _lock  # noqa: PLW0603 - whoever a fork becomes must not start sandboxes as whom we are
    _lock = Lock()
    if _kept is not None:
        _kept[0].forget()
        _kept = None


os.register_at_fork(after_in_child=_forget)


def main(descriptor: int, containment: str) -> None:
    """The process itself, until nobody can tell it anything any more."""
    os.chdir("/")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors are nobody's to wait for
    with socket.socket(fileno=descriptor) as sock:
        _import(containment)
        while True:
            flags = socket.MSG_CMSG_CLOEXEC
            word, descriptors, _, _ = socket.recv_fds(sock, _MOST_WORD, MOST_DESCRIPTORS, flags)
            if not word:
                return
            _import(word.decode())
            if os.fork() == 0:
                sock.close()
                _supervise(descriptors)
            for one in descriptors:
                os.close(one)


def _supervise(descriptors: list[int]) -> None:
    from mxc_ops.session.supervisor import main as supervise

    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        supervise(descriptors)
        status = 0
    finally:
        os._exit(status)


def _import(containment: str) -> None:
    backend = registry.get(containment)
    if isinstance(backend, KeepsSessions):
        for name in (*_ALWAYS, *backend.session_modules):
            import_module(name)
    gc.freeze()  # what forks share stays shared
