"""A program, and all that it starts, for as long as somebody wants it: run by its path, with nothing of ours.

    python -I -S keeper.py DESCRIPTOR PROGRAM [WORD ...]

Who is killed cannot end what they have started, and prctl(2) PR_SET_PDEATHSIG ends a child alone: mmdebstrap,
told to end, waits for children that nobody has told. So this process adopts whatever loses its parent
(PR_SET_CHILD_SUBREAPER), and kills all of it when the program has ended, or when nobody holds the other end
of the pipe DESCRIPTOR any more. It ends as the program has; 127: there is none.

Started by root, it has mounts of its own: what mmdebstrap mounts, the host's /dev/shm among it, is nowhere
else, and gone with it. Nobody who clears up can reach the host by one that was left.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_SET_CHILD_SUBREAPER = 36
_NEW_MOUNTS = 0x20000  # CLONE_NEWNS
_MOUNT_FLAGS = ctypes.c_ulong(0x4000 | 0x80000)  # MS_REC, MS_SLAVE: what the host mounts is seen, not more
_PATIENCE_S = 10.0
_PAUSE_S = 0.02
_TOLD_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def main() -> None:
    held, words = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.geteuid() == 0 and (
        libc.unshare(_NEW_MOUNTS) < 0 or libc.mount(None, b"/", None, _MOUNT_FLAGS, None) < 0
    ):
        print(f"no mounts of its own: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(1)
    os.set_inheritable(held, False)
    for number in _TOLD_TO_END:  # the program follows: handlers are not inherited, as ignoring would be
        signal.signal(number, _take_notice)
    try:
        child = os.posix_spawnp(words[0], words, os.environ, setsigdef=_IGNORED_BY_PYTHON)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([held, ended], [], [])
    if ended not in ready:
        end_all()
        sys.exit(128 + signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    end_all()
    if status < 0:
        if -status in _TOLD_TO_END:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def _take_notice(_number: int, _frame: object) -> None:
    pass


def end_all() -> None:
    """Kill what is below us until nothing is: it may still start more."""
    deadline = time.monotonic() + _PATIENCE_S
    while (found := below(os.getpid())) and time.monotonic() < deadline:
        for pid in found:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_S)


def below(pid: int) -> set[int]:
    """All that is alive of what was started below a process."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_bytes().rpartition(b")")[2].split()[:2]
            if state not in (b"Z", b"X"):
                parents[int(stat.parent.name)] = int(parent)
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


if __name__ == "__main__":
    main()
