"""Removing what a sandbox left, whatever a workload made of it: closed directories, ten thousand levels."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from mxc_ops.session.places import closing

__all__ = ["remove_tree"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 20


def remove_tree(name: str, parent: int) -> None:
    """Remove the directory, or anything else, that has this name in `parent`; nothing there is fine.

    No link is followed. Several may remove the same tree at once. Directories are emptied into the topmost
    one instead of being descended into: the depth costs neither stack nor descriptors. Raises `OSError` for
    what cannot be removed; the rest may be gone by then.
    """
    for tries in range(1, _TRIES + 1):
        try:
            top = _open(name, parent)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=parent)
            return
        with closing(top):
            while directories := _empty(top, top):
                for directory in directories:
                    _flatten(directory, top)
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or tries == _TRIES:  # another one emptied directories into it
                raise
        else:
            return


def _flatten(name: str, top: int) -> None:
    with suppress(FileNotFoundError):
        with closing(_open(name, top)) as here:
            _empty(here, top)
        os.rmdir(name, dir_fd=top)


def _empty(here: int, top: int) -> list[str]:
    """Remove the directory's files and move its directories to the top; those that are there are returned."""
    with os.scandir(here) as listing:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listing]
    directories: list[str] = []
    for name, is_directory in entries:
        with suppress(FileNotFoundError):
            if not is_directory:
                os.unlink(name, dir_fd=here)
            elif here == top:
                directories.append(name)
            else:
                _hoist(name, here, top)
    return directories


def _hoist(name: str, here: int, top: int) -> None:
    fresh = os.urandom(16).hex()
    try:
        os.rename(name, fresh, src_dir_fd=here, dst_dir_fd=top)
    except PermissionError:  # a directory that moves is written to: it knows where it is
        _take_back(name, here)
        os.rename(name, fresh, src_dir_fd=here, dst_dir_fd=top)


def _open(name: str, parent: int) -> int:
    """A directory in which we may do everything, where that can be had."""
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        _take_back(name, parent)
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    if os.fstat(descriptor).st_mode & 0o700 != 0o700:
        with suppress(PermissionError):
            os.fchmod(descriptor, 0o700)
    return descriptor


def _take_back(name: str, parent: int) -> None:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with closing(os.open(name, flags, dir_fd=parent)) as descriptor:
        os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
