"""The host as an observer sees it: processes, mounts, namespaces."""

from __future__ import annotations

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
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                words = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
                status = dict(line.split(":\t", 1) for line in _lines(f"/proc/{entry}/status") if ":\t" in line)
                groups = tuple(int(group) for group in status["Groups"].split())
                uid, gid = int(status["Uid"].split()[0]), int(status["Gid"].split()[0])
                yield Process(int(entry), tuple(words), uid, gid, groups)


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


def namespaces() -> set[str]:
    """Every namespace in which some process is."""
    found: set[str] = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            for kind in _NAMESPACES:
                with suppress(OSError):
                    found.add(os.readlink(f"/proc/{entry}/ns/{kind}"))
    return found


def mounts(pid: int | str = "self") -> list[str]:
    """Mount points and sources that this process sees."""
    return [" ".join(line.split()[3:5]) for line in _lines(f"/proc/{pid}/mountinfo")]


def _lines(path: str) -> list[str]:
    return Path(path).read_text(errors="replace").splitlines()
