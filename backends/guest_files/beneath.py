"""Paths below an open directory, and the two system calls for it that Python does not have."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct

from backends.guest_files.snapshot import Host, host_state

__all__ = ["Below", "exchange", "open_beneath", "rename_new", "syncfs"]

_OPENAT2 = 437  # the same on every architecture, Linux 5.6
_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276}
_NOREPLACE, _EXCHANGE = 1, 2
_NO_MOUNTS, _NO_MAGIC_LINKS, _NO_SYMLINKS, _BENEATH = 1, 2, 4, 8
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)

_libc = ctypes.CDLL(None, use_errno=True)


def open_beneath(directory: int, path: str, flags: int = _DIRECTORY, *, same_mount: bool = False) -> int:
    """Open relative `path` ("" is the directory itself): no link of any kind is followed, `..` is of no use.

    Raises `OSError`: ELOOP for a link on the way, EXDEV for an attempt to leave, with `same_mount` also for
    what is mounted below.
    """
    resolve = _BENEATH | _NO_SYMLINKS | _NO_MAGIC_LINKS | (_NO_MOUNTS if same_mount else 0)
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, resolve)
    answer = _libc.syscall(
        *(ctypes.c_long(_OPENAT2), ctypes.c_int(directory), os.fsencode(path or ".")),
        *(how, ctypes.c_size_t(len(how))),
    )
    return _checked(answer, path)


def rename_new(old: int, old_name: str, new: int, new_name: str) -> None:
    """Rename, and never over something: raises `FileExistsError` then."""
    _rename(old, old_name, new, new_name, _NOREPLACE)


def exchange(old: int, old_name: str, new: int, new_name: str) -> None:
    """Let two objects change their places in one step."""
    _rename(old, old_name, new, new_name, _EXCHANGE)


def _rename(old: int, old_name: str, new: int, new_name: str, flags: int) -> None:
    answer = _libc.syscall(
        *(ctypes.c_long(_RENAMEAT2[os.uname().machine]), ctypes.c_int(old), os.fsencode(old_name)),
        *(ctypes.c_int(new), os.fsencode(new_name), ctypes.c_uint(flags)),
    )
    _checked(answer, new_name)


def syncfs(descriptor: int) -> None:
    """Have everything of the file system on disk."""
    _checked(_libc.syncfs(ctypes.c_int(descriptor)), "")


def _checked(answer: int, path: str) -> int:
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return answer


class Below:
    """What lies below a directory, or the one entry "" when a single file is granted.

    Parameters
    ----------
    top: the directory's descriptor, which stays the caller's; of a file's parent with its name in `single`,
        or -1 where that may not be entered.
    handle: the granted object's own descriptor.
    """

    def __init__(self, top: int, handle: int, single: str = "") -> None:
        self.top = top
        self.handle = handle
        self.single = single
        self._known: tuple[str, int] | None = None

    def close(self) -> None:
        if self._known is not None:
            os.close(self._known[1])
            self._known = None

    def parent(self, path: str) -> tuple[int, str]:
        """(descriptor of the directory, name in it); the descriptor is good until the next call.

        Raises `OSError` when the directory is not there, or is something else.
        """
        if self.top < 0:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.single)
        if not path:
            return self.top, self.single or "."
        above, _, name = path.rpartition("/")
        if not above:
            return self.top, name
        if self._known is None or self._known[0] != above:
            opened = open_beneath(self.top, above)
            self.close()
            self._known = (above, opened)
        return self._known[1], name

    def state(self, path: str) -> Host | None:
        """What is there now; None when nothing is, or a directory on the way is none (any more).

        Raises `OSError` when that cannot be found out.
        """
        if self.top < 0:
            return host_state(os.fstat(self.handle))
        try:
            directory, name = self.parent(path)
            return host_state(os.stat(name, dir_fd=directory, follow_symlinks=False))
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def open_for_writing(self, path: str) -> int:
        """A regular file, to be written in place. Raises `OSError`, also for anything else."""
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        if self.top < 0:
            return os.open(f"/proc/self/fd/{self.handle}", flags)
        directory, name = self.parent(path)
        opened = os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        return opened

    def open_for_reading(self, path: str) -> int:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        if self.top < 0:
            return os.open(f"/proc/self/fd/{self.handle}", flags)
        directory, name = self.parent(path)
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)

    def set_mode(self, path: str, was: Host | None, mode: int) -> bool:
        """Change the permissions unless the object is another one, or has others, by now."""
        directory, name = self.parent(path)
        opened = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            now = os.fstat(opened)
            if stat.S_IFMT(now.st_mode) != stat.S_IFMT(mode):
                return False
            if was is not None and (now.st_ino, now.st_mode) not in (
                (was.inode, was.mode),
                (was.inode, mode),
            ):
                return False
            if was is None and stat.S_ISDIR(mode):
                mode |= now.st_mode & stat.S_ISGID  # which a directory has from the one that it was made in
            os.chmod(f"/proc/self/fd/{opened}", stat.S_IMODE(mode))  # the open object, whatever its name is
            return True
        finally:
            os.close(opened)
