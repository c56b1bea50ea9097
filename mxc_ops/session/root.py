"""The store's own directory: names, sandboxes that are being made, and those that are being removed.

::

    <tail>/          a sandbox
    .new-<random>/   one that is being made, locked by who makes it
    .gone-<tail>/    one that is being removed
    .names/<name>    a link whose text is the tail of the sandbox that has the name
    .lock            held while names and sandboxes appear or disappear
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress

from mxc_ops.session.errors import busy
from mxc_ops.session.files import lock
from mxc_ops.session.ids import is_tail
from mxc_ops.session.places import closing, open_directory, open_file, same_object

__all__ = [
    "GONE",
    "NEW",
    "changing",
    "claim",
    "drop_dead_names",
    "exists",
    "named",
    "put_away",
    "tails",
    "workplace",
]

NEW, GONE = ".new-", ".gone-"
_NAMES, _LOCK = ".names", ".lock"
_WAIT_S = 30.0


def tails(root: int) -> list[str]:
    """The names of all folders of sandboxes."""
    return [name for name in os.listdir(root) if is_tail(name)]


def exists(root: int, tail: str) -> bool:
    try:
        os.stat(tail, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def changing(root: int) -> Generator[None]:
    """Be the only one who lets names and sandboxes appear or disappear. Raises `LaunchFailed` (busy)."""
    with closing(open_file(_LOCK, root, os.O_RDWR | os.O_CREAT)) as descriptor:
        if not lock(descriptor, _WAIT_S):
            raise busy("the store of sandboxes", _WAIT_S)
        yield


def workplace(root: int) -> tuple[str, int]:
    """(name, descriptor) of a fresh directory, locked: while it is open, nobody takes it for a leftover."""
    while True:
        name = f"{NEW}{os.urandom(16).hex()}"
        os.mkdir(name, 0o700, dir_fd=root)
        with suppress(FileNotFoundError):  # swept before it was locked
            descriptor = open_directory(name, root)
            try:
                if lock(descriptor, _WAIT_S) and same_object(descriptor, name, root):
                    return name, descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def named(root: int, name: str) -> str:
    """The tail that the name leads to; "" for none. It may be that of a sandbox that never came to be."""
    try:
        with closing(open_directory(_NAMES, root)) as names:
            tail = os.readlink(name, dir_fd=names)
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno != errno.EINVAL:  # something that is no link
            raise
        return ""
    return tail if is_tail(tail) else ""


def claim(root: int, name: str, tail: str) -> str:
    """Let the name lead to `tail`; the answer is the tail that has it already, or "". While `changing`."""
    holder = named(root, name)
    if holder and exists(root, holder):
        return holder
    with suppress(FileExistsError):
        os.mkdir(_NAMES, 0o700, dir_fd=root)
    with closing(open_directory(_NAMES, root)) as names:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=names)
        os.symlink(tail, name, dir_fd=names)
        os.fsync(names)
    return ""


def put_away(root: int, tail: str, name: str) -> str:
    """Take a sandbox out of the store in one step. While `changing`.

    `name`: the sandbox's own, or "". The answer is what its folder is called until it is removed.
    """
    gone = f"{GONE}{tail}"
    os.rename(tail, gone, src_dir_fd=root, dst_dir_fd=root)
    if name and named(root, name) == tail:
        with closing(open_directory(_NAMES, root)) as names:
            os.unlink(name, dir_fd=names)
    os.fsync(root)
    return gone


def drop_dead_names(root: int) -> list[str]:
    """Remove the names that lead nowhere. While `changing`."""
    dropped: list[str] = []
    with suppress(FileNotFoundError), closing(open_directory(_NAMES, root)) as names:
        for name in os.listdir(names):
            tail = named(root, name)
            if not tail or not exists(root, tail):
                os.unlink(name, dir_fd=names)
                dropped.append(f"{_NAMES}/{name}")
    return dropped
