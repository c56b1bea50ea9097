"""Who waits for ever for what was to start it (effectful).

bubblewrap and LXC clone process 1 of a sandbox and shake hands with it. One whose parent is killed in between
waits on, with all that was mounted for it: nothing of ours runs in it yet that would notice.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress

from backends.launched.parts import STAGE

__all__ = ["end_orphans"]

_CONTAINER = re.compile(r"mxc-[0-9a-f]{32}")
_PROGRAM = re.compile(r"/proc/self/fd/[0-9]+")


def end_orphans() -> list[str]:
    """Kill those that we may kill, of whatever sandbox: each as ``process PID``."""
    ended: list[str] = []
    for pid, words in _orphans():
        with suppress(OSError):
            held = os.pidfd_open(pid)
            try:
                if _words(pid) == words:
                    signal.pidfd_send_signal(held, signal.SIGKILL)
                    ended.append(f"process {pid}")
            finally:
                os.close(held)
    return ended


def _orphans() -> Iterator[tuple[int, list[str]]]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with suppress(OSError, KeyError):
            words = _words(int(name))
            if not _starts_a_sandbox(words):
                continue
            with open(f"/proc/{name}/status") as file:
                fields = dict(line.split(":", 1) for line in file)
            pids = fields["NSpid"].split()
            if len(pids) > 1 and pids[-1] == "1" and _words(int(fields["PPid"])) != words:
                yield int(name), words


def _starts_a_sandbox(words: list[str]) -> bool:
    """By the command line that we give bubblewrap or LXC: the clone has it until it executes process 1."""
    if words[1:2] == ["--args"]:
        return words[-2:-1] == ["inside"] and _PROGRAM.fullmatch(words[-3]) is not None
    container = words[words.index("--name") + 1 :] if "--name" in words else []
    return STAGE in words and bool(container) and _CONTAINER.fullmatch(container[0]) is not None


def _words(pid: int) -> list[str]:
    """Raises `OSError`; of process 0, the parent of those whose parent is not to be seen, there are none."""
    if pid == 0:
        return []
    with open(f"/proc/{pid}/cmdline", errors="surrogateescape") as file:
        return file.read().split("\0")[:-1]
