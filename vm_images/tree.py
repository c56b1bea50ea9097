"""A root file system as a directory, worked on from outside: links in it are followed as the guest would.

What it is made of may come from elsewhere, so nothing that is written through it lands beside it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from backends.errors import PrepFailed, Problem
from backends.guest_etc import ETC_FILES
from vm_images.recipe import OwnFile

__all__ = ["fingerprint", "finish", "inside", "put", "tame"]

_DIRECTORIES = {
    **dict.fromkeys(("dev", "proc", "run", "sys", "mnt", "root", "var/log", "var/cache"), 0o755),
    **dict.fromkeys(("tmp", "var/tmp"), 0o1777),
}
_MAX_LINKS = 40  # as the kernel's (path_resolution(7))


def inside(tree: Path, path: str) -> Path:
    """The directory that a path leads to for who has `tree` as root; it is made where it is missing.

    Raises `PrepFailed` where there is something else, or links lead in a circle.
    """
    place, links = tree, 0
    left = path.split("/")[::-1]
    while left:
        part = left.pop()
        if part in ("", "."):
            continue
        if part == "..":
            place = place if place == tree else place.parent
            continue
        step = place / part
        if step.is_symlink() and links < _MAX_LINKS:
            links += 1
            target = str(step.readlink())
            place = tree if target.startswith("/") else place
            left += target.split("/")[::-1]
            continue
        if step.is_symlink() or (step.exists() and not step.is_dir()):
            raise PrepFailed(Problem("file_path", "", f"{path} is no directory of the image: {part}"))
        if not step.exists():
            step.mkdir()
            step.chmod(0o755)
        place = step
    return place


def put(tree: Path, file: OwnFile) -> None:
    """Write a file of our own; what has its name goes, unless it is a directory."""
    above, _, name = file.path.rpartition("/")
    place = inside(tree, above) / name
    if place.is_symlink() or place.exists():
        place.unlink()
    place.write_bytes(file.content)
    place.chmod(file.mode)


def finish(tree: Path, files: Sequence[OwnFile]) -> dict[Path, int]:
    """Make the directories that each guest has, and the files that are ours; `files` win over what is there.

    Returns the permissions of those directories, for who sets them last.
    """
    modes = {inside(tree, name): mode for name, mode in _DIRECTORIES.items()}
    own = [OwnFile(path, text.encode()) for path, text in ETC_FILES.items()]
    for file in (*own, OwnFile("/etc/machine-id", b""), *files):
        put(tree, file)
    return modes


def tame(tree: Path) -> None:
    """Take devices, sockets and set-id bits away from a tree that others made."""
    for path, status in _entries(tree):
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            path.chmod(mode & 0o1777)
        elif stat.S_ISREG(mode):
            path.chmod(mode & 0o777)
        elif not stat.S_ISLNK(mode):
            path.unlink()


def fingerprint(tree: Path) -> str:
    """SHA-256, in hex, of all names, permissions and contents."""
    whole = hashlib.sha256()
    for path, status in _entries(tree):
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        text = f"{path.relative_to(tree)}\0{status.st_mode:o}\0{content}\0"
        whole.update(text.encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _entries(tree: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below, each folder before what is in it, by name."""
    for folder, folders, names in os.walk(tree):
        folders.sort()
        for name in sorted((*folders, *names)):
            path = Path(folder, name)
            yield path, path.lstat()
