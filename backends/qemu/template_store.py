"""Templates on disk: published whole, found by key, never trusted unseen (effectful).

A template is a folder ``<key>/{memory,state,template.json}``. Full checksums of 100 MiB would cost each run
more than the copy itself, so the record also holds inode, size and times of the files as they were published:
unchanged, they need no second look; changed in any way, they are checked byte for byte, once.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from backends.digest import sha256
from backends.errors import LaunchFailed, Problem
from backends.qemu.memory_file import copy_data, data_ranges, save_nonzero, sealed_copy

__all__ = ["StoredTemplate", "TemplateCorrupt", "TemplateStore", "default_store"]

SYSTEM_STORE = "/var/lib/mxc-ops/templates"
_RECORD, _MEMORY, _STATE = "template.json", "memory", "state"
_PIECE = 1 << 20
_BUILDING = ".building-"
_LOCK_POLL_S = 0.02
_KEY_LETTERS = 64
_UNUSED_S = 14 * 24 * 3600


class TemplateCorrupt(Exception):
    """What is stored is not what was published."""


class StoredTemplate:
    """A template that was opened and found whole: `memory` is a sealed memfd, `state` the device state.

    Opened only to be copied, `memory` is the store's own file. -1: `state` is that of memory, too.
    """

    def __init__(self, memory: int, state: bytes) -> None:
        self.memory = memory
        self.state = state

    def close(self) -> None:
        if self.memory >= 0:
            os.close(self.memory)
            self.memory = -1

    def __del__(self) -> None:
        self.close()


def default_store() -> str:
    """The system's for root, else the user's own."""
    if os.geteuid() == 0:
        return SYSTEM_STORE
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = cache if cache.startswith("/") else os.path.expanduser("~/.cache")
    return f"{base}/mxc-ops/templates"


class TemplateStore:
    """One folder of templates, owned by whoever runs the machines: nobody else's are used."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def open(self, key: str, *, to_copy: bool = False) -> StoredTemplate | None:
        """The template under `key`; None when there is none.

        Parameters
        ----------
        to_copy: its memory will only be copied, so that the store's file itself is good enough.

        Raises `TemplateCorrupt`, with what is wrong, and `LaunchFailed` when it cannot be read at all.
        """
        place = f"{self.folder}/{key}"
        fds: dict[str, int] = {}
        try:
            _require_own(os.lstat(self.folder), self.folder)
            fds["."] = folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            for name in (_MEMORY, _STATE, _RECORD):
                fds[name] = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            for name, fd in fds.items():
                _require_own(os.fstat(fd), f"{place}/{name}")
            record: dict[str, Any] = json.loads(os.pread(fds[_RECORD], _PIECE, 0))
            self._check_unchanged(place, record, fds)
            with suppress(OSError):
                os.utime(folder)  # so that it is known which ones are used
            state = os.pread(fds[_STATE], os.fstat(fds[_STATE]).st_size, 0)
            return StoredTemplate(fds.pop(_MEMORY) if to_copy else _sealed(place, fds[_MEMORY]), state)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
            raise TemplateCorrupt(f"{place} cannot be used: {error}") from error
        finally:
            for fd in fds.values():
                os.close(fd)

    def publish(self, key: str, memory: int, state: int) -> None:
        """Store a template, whole or not at all; one that is there already is replaced.

        Raises `OSError`, e.g. when the disk is full: nothing is left behind then.
        """
        scratch = f"{self.folder}/{_BUILDING}{os.getpid()}-{key[:16]}"
        os.mkdir(scratch, mode=0o700)
        try:
            record: dict[str, Any] = {"key": key}
            for name, source, copy in ((_MEMORY, memory, save_nonzero), (_STATE, state, copy_data)):
                record[name] = _write_part(f"{scratch}/{name}", source, copy)
            with open(f"{scratch}/{_RECORD}", "w") as file:
                json.dump(record, file)
                file.flush()
                os.fsync(file.fileno())
            self.remove(key)
            os.rename(scratch, f"{self.folder}/{key}")
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    def remove(self, key: str) -> None:
        """Take a template out of the way; whoever has it open keeps it."""
        doomed = f"{self.folder}/{_BUILDING}{os.getpid()}-removed"
        with suppress(FileNotFoundError):
            os.rename(f"{self.folder}/{key}", doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    @asynccontextmanager
    async def building(self) -> AsyncGenerator[None]:
        """Hold the right to build here: others wait, and find it built.

        What dead builders left is removed, and what was not opened for 14 days: the templates of images,
        QEMUs and hosts that are gone. One builder at a time, whatever it builds: a boot takes a whole
        processor. Raises `OSError` when the folder cannot be made.
        """
        from asyncio import sleep

        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        lock = os.open(f"{self.folder}/.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while not _try_lock(lock):
                await sleep(_LOCK_POLL_S)
            self._sweep()
            yield
        finally:
            os.close(lock)

    def _sweep(self) -> None:
        for name in os.listdir(self.folder):
            pid = name.removeprefix(_BUILDING).partition("-")[0]
            if name.startswith(_BUILDING) and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
                shutil.rmtree(f"{self.folder}/{name}", ignore_errors=True)
            elif len(name) == _KEY_LETTERS and _age_s(f"{self.folder}/{name}") > _UNUSED_S:
                self.remove(name)

    def _check_unchanged(self, place: str, record: dict[str, Any], fds: dict[str, int]) -> None:
        changed = [name for name in (_MEMORY, _STATE) if _identity(fds[name]) != record[name]["identity"]]
        for name in changed:
            if _digest(fds[name]) != record[name]["sha256"]:
                raise TemplateCorrupt(f"{place}/{name} is not what was stored")
            record[name]["identity"] = _identity(fds[name])
        if changed:
            _write_record(record, fds["."])


def _age_s(path: str) -> float:
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_part(path: str, source: int, copy: Callable[[int, int], None]) -> dict[str, Any]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        copy(source, fd)
        os.fsync(fd)
        return {"sha256": _digest(fd), "identity": _identity(fd)}
    finally:
        os.close(fd)


def _identity(fd: int) -> list[int]:
    status = os.fstat(fd)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _digest(fd: int) -> str:
    """Over size and content; holes are named, not read."""
    digest = sha256(str(os.fstat(fd).st_size).encode())
    for start, end in data_ranges(fd):
        digest.update(f" {start}-{end} ".encode())
        for position in range(start, end, _PIECE):
            digest.update(os.pread(fd, min(_PIECE, end - position), position))
    return digest.hexdigest()


def _require_own(status: os.stat_result, path: str) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} can be written by others")


def _sealed(place: str, memory: int) -> int:
    try:
        return sealed_copy(memory)
    except OSError as error:
        raise LaunchFailed(Problem("template_not_readable", "", f"{place}: {error}")) from error


def _write_record(record: dict[str, Any], folder: int) -> None:
    """A full disk, say, only means that the next one looks as closely."""
    scratch = f"{_RECORD}.{os.getpid()}"
    with suppress(OSError):
        fd = os.open(
            scratch,
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
            dir_fd=folder,
        )
        try:
            with os.fdopen(fd, "w") as file:
                json.dump(record, file)
            os.rename(scratch, _RECORD, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(scratch, dir_fd=folder)
