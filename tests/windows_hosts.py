"""Made-up facts about a Windows host: what plans for its WSL containers are made from in tests."""

from __future__ import annotations

from backends.base import Access, Grant, ObjectKind
from backends.wslc.windows.facts import PathFact, WindowsFacts

STORAGE = r"C:\Users\dev\AppData\Local\Temp\mxc-wslc-sessions"
LISTS = {
    Access.READ_WRITE: "readwritePaths",
    Access.READ_ONLY: "readonlyPaths",
    Access.DENIED: "deniedPaths",
}


def directory(real: str) -> PathFact:
    return PathFact(real, ObjectKind.DIRECTORY, readable=True, writable=True)


def file(real: str) -> PathFact:
    return PathFact(real, ObjectKind.FILE, readable=True, writable=True)


def host(*paths: tuple[str, PathFact], wsl: str = "2.9.3.0") -> WindowsFacts:
    """A host on which each path (as a request writes it) is what the fact says."""
    return WindowsFacts(wsl, STORAGE, dict(paths))


def grants(*entries: tuple[str, Access]) -> tuple[Grant, ...]:
    """Entries of `filesystem`, each with the pointer that a document would have."""
    counts = dict.fromkeys(Access, 0)
    made: list[Grant] = []
    for path, access in entries:
        made.append(Grant(path, access, f"/filesystem/{LISTS[access]}/{counts[access]}"))
        counts[access] += 1
    return tuple(made)
