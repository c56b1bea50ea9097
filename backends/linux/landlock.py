"""The Landlock rules of a sandbox: a second lock behind the mounts (landlock(7)).

The view that bubblewrap mounts is the policy already, so everything in it may be read and executed;
writing, creating and removing is allowed below the writable trees only, also if a mount were to be writable
by mistake. Abstract unix sockets and processes outside the workload's own domain are out of reach. TCP is
left to the network namespace.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache

from backends.inside.protocol import LandlockPath, LandlockRules

NEWEST_ABI = 7

EXECUTE = 1 << 0
WRITE_FILE = 1 << 1
READ_FILE = 1 << 2
READ_DIR = 1 << 3
REMOVE_DIR = 1 << 4
REMOVE_FILE = 1 << 5
MAKE_CHAR = 1 << 6
MAKE_DIR = 1 << 7
MAKE_REG = 1 << 8
MAKE_SOCK = 1 << 9
MAKE_FIFO = 1 << 10
MAKE_BLOCK = 1 << 11
MAKE_SYM = 1 << 12
REFER = 1 << 13
TRUNCATE = 1 << 14
IOCTL_DEV = 1 << 15

_FIRST_ABI = (1 << 13) - 1
_SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
_SCOPE_SIGNAL = 1 << 1

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (
    WRITE_FILE
    | TRUNCATE
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_DIR
    | MAKE_REG
    | MAKE_SOCK
    | MAKE_FIFO
    | MAKE_SYM
    | REFER
)
"""Everything but making devices, which nobody in a sandbox may."""
DEVICE = WRITE_FILE | TRUNCATE | IOCTL_DEV


def rules(
    abi: int,
    writable: Sequence[str],
    *,
    readable: Sequence[str] = ("/",),
    devices: Sequence[str] = ("/dev",),
    optional: Sequence[str] = (),
    minimum_abi: int = 0,
) -> LandlockRules | None:
    """The rules for a kernel with interface `abi`; None when it has no Landlock and none is demanded.

    All paths are as seen inside. Directories stand for everything below them. `devices` may be written
    and given ioctls, `optional` ones of all these may be missing inside. The launcher cuts the rules to the
    kernel it runs on, so `NEWEST_ABI` can be given without asking; below `minimum_abi` it refuses to start.
    """
    if abi == 0 and minimum_abi == 0:
        return None
    missing_allowed = frozenset(optional)
    access: dict[str, int] = {}
    for paths, rights in ((readable, READ), (devices, DEVICE), (writable, WRITE | IOCTL_DEV)):
        for path in paths:
            access[path] = access.get(path, 0) | rights
    handled_fs = handled_access(abi)
    return LandlockRules(
        handled_fs=handled_fs,
        handled_net=0,
        scoped=_SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if abi >= 6 else 0,
        paths=tuple(
            LandlockPath(path, rights & handled_fs, optional=path in missing_allowed)
            for path, rights in access.items()
        ),
        minimum_abi=minimum_abi,
    )


def nothing_writable() -> LandlockRules:
    """Rules for who may read what was opened for it, and write to nothing but devices.

    The view of a sandbox does not hold there: a file that was handed in for reading is opened anew through
    /proc for writing, where its owner, or its permissions, allow it. Memory files have no place in a file
    system and are left alone; kernels without Landlock are too.
    """
    return LandlockRules(
        handled_fs=WRITE | MAKE_CHAR | MAKE_BLOCK,
        handled_net=0,
        scoped=_SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL,
        paths=(LandlockPath("/dev", WRITE_FILE | TRUNCATE),),
    )


def handled_access(abi: int) -> int:
    """The filesystem rights that interface `abi` can restrict."""
    handled = _FIRST_ABI
    handled |= REFER if abi >= 2 else 0
    handled |= TRUNCATE if abi >= 3 else 0
    handled |= IOCTL_DEV if abi >= 5 else 0
    return handled


@cache
def abi() -> int:
    """The running kernel's Landlock interface, 0 without one."""
    from _ctypes import call_function, dlopen, dlsym  # what ctypes is made of: 0.5 instead of 3 ms

    create_ruleset, query_version = 444, 1
    program = dlopen(None, os.RTLD_NOW)  # pyright: ignore[reportArgumentType]  # None: the running program itself
    syscall = dlsym(program, "syscall")
    return max(int(call_function(syscall, (create_ruleset, None, 0, query_version))), 0)
