"""Small facts that hold until the host is booted anew, kept in files of the one who found them out."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress

from backends.linux.numbers import RUN_DIRECTORY

__all__ = ["cached"]

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MOST_BYTES = 4096


def cached(name: str, find_out: Callable[[], str], *, folder: str | None = None) -> str:
    """The text under `name`, found out once per boot of the host.

    Parameters
    ----------
    name: a file name; what the fact depends on besides the boot belongs into it.
    find_out: called when nothing is known yet, or what is known could have been written by somebody else. Its
        answer may not be kept, where there is no place of ours for it: then each process finds out.
    """
    boot = _read(_BOOT_ID).strip()
    folder = folder or _own_folder()
    path = f"{folder}/{name}"
    known, _, text = _read_owned(path).partition("\n")
    if folder and boot and known == boot:
        return text
    text = find_out()
    if folder and boot:
        with suppress(OSError):
            os.makedirs(folder, mode=0o755, exist_ok=True)
            _write(path, f"{boot}\n{text}")
    return text


def _own_folder() -> str:
    if os.geteuid() == 0:
        return f"{RUN_DIRECTORY}/boot"
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{runtime}/mxc-ops/boot" if runtime.startswith("/") else ""


def _read(path: str) -> str:
    with suppress(OSError), open(path) as file:
        return file.read(_MOST_BYTES)
    return ""


def _read_owned(path: str) -> str:
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd) as file:
            status = os.fstat(fd)
            if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return file.read(_MOST_BYTES)
    return ""


def _write(path: str, text: str) -> None:
    scratch = f"{path}.{os.getpid()}"
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "w") as file:
        file.write(text)
    os.replace(scratch, path)
