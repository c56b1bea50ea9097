"""The host as an observer sees it: processes, mounts, namespaces."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NAMESPACES = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup")
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Process:
    """One process; `words` is its command line, ids are the real ones on the host."""

    pid: int
    words: tuple[str, ...]
    uid: int
    gid: int
    groups: tuple[int, ...]


def processes() -> Iterator[Process]:
    """Every process of the host, as far as we may look."""
    for pid in _pids():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            pairs = (line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            status = {pair[0]: pair[-1].split() for pair in pairs}
            groups = tuple(int(group) for group in status["Groups"])
            yield Process(pid, tuple(words), int(status["Uid"][0]), int(status["Gid"][0]), groups)


def with_word(word: str) -> list[Process]:
    """The processes that have exactly this word in their command line."""
    return [process for process in processes() if word in process.words]


def wait_for_process(word: str) -> Process:
    """The first process with this word, as soon as there is one."""
    wait_until(lambda: bool(with_word(word)), f"no process has the word {word}")
    return with_word(word)[0]


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Returns as soon as the condition holds; fails the test with `otherwise` when it never does."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def processes_saying(text: str) -> list[Process]:
    """The processes with this text anywhere in their command line, apart from our own."""
    return [p for p in processes() if p.pid != os.getpid() and any(text in word for word in p.words)]


def orphans() -> list[Process]:
    """Bubblewraps and launchers whose starter is gone."""
    return [process for process in processes() if _is_helper(process.words) and _parent(process.pid) == 1]


def namespaces(pid: int) -> set[str]:
    """The namespaces this process is in."""
    found: set[str] = set()
    for kind in _NAMESPACES:
        with suppress(OSError):
            found.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
    return found


def all_namespaces(before_s: float) -> set[str]:
    """Every namespace in which some process is that began before a moment (seconds since boot).

    The kernel gives the number of a namespace that has ended to the next one that is made.
    """
    return {name for pid in _pids() if _began_s(pid) < before_s for name in namespaces(pid)}


def since_boot_s() -> float:
    """The clock that processes' starts are recorded by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def seen_in_mounts(path: Path) -> bool:
    """Whether the mount table of any process names this path."""
    for pid in _pids():
        with suppress(OSError):
            if f"{path} " in Path(f"/proc/{pid}/mountinfo").read_text(errors="replace"):
                return True
    return False


def _is_helper(words: tuple[str, ...]) -> bool:
    return words[0].endswith("/bwrap") or words[1:2] in (("inside",), ("outside",))


def _parent(pid: int) -> int | None:
    stat = _stat(pid)
    return int(stat[1]) if stat else None


def _began_s(pid: int) -> float:
    stat = _stat(pid)
    return int(stat[19]) / os.sysconf("SC_CLK_TCK") if stat else math.inf


def _stat(pid: int) -> list[str]:
    """What follows the name in proc_pid_stat(5), from the state on; nothing of a process that is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
