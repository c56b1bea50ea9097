"""On whose behalf a run happens, and looking at files with exactly that user's rights.

A caller cannot grant what it does not hold (policy-semantics.md §1.3). Launched through sudo we are root,
whom no permission stops, so every look-up and access check then runs with the file-system credentials of the
user behind `SUDO_UID`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from backends.errors import PolicyRefused, Problem
from backends.frozen import frozen

if TYPE_CHECKING:
    import ctypes

__all__ = ["Caller", "HasAccess", "as_caller", "calling_user", "lower_thread"]

T = TypeVar("T")

HasAccess = Callable[[int, int], bool]
"""``(O_PATH descriptor, os.R_OK | os.W_OK | os.X_OK) -> bool``: whether the caller has all of that access."""

_HIGHEST_UID = 0xFFFFFFFE  # (uid_t)-1 means "no change" to the kernel

# setgroups has to be called by number: the C library's wrapper changes every thread of the process.
_SETGROUPS = {"x86_64": 116, "aarch64": 159, "riscv64": 159}
_FACCESSAT2 = 439  # the same on every architecture, Linux 5.8
_AT_EACCESS = 0x200
_AT_EMPTY_PATH = 0x1000
_CAPABILITY_VERSION_3 = 0x20080522


@frozen
class Caller:
    """The real user that a run is made for: host uid, primary gid, supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def calling_user() -> Caller:
    """Our real user; when that is root started through sudo, the user who called sudo.

    Raises `PolicyRefused` when `SUDO_UID` is set and names no user: whose rights to check would be a guess.
    """
    uid = os.getuid()
    sudo_uid = os.environ.get("SUDO_UID")
    if uid != 0 or not sudo_uid:
        return Caller(uid, os.getgid(), tuple(os.getgroups()))
    caller = _id(sudo_uid)
    if caller is None:
        raise _unknown_caller(f"SUDO_UID={sudo_uid!r} is not a user id")
    if caller == 0:
        return Caller(uid, os.getgid(), tuple(os.getgroups()))
    import pwd

    try:
        account = pwd.getpwuid(caller)
    except KeyError:
        group = _id(os.environ.get("SUDO_GID", ""))
        if group is None:
            raise _unknown_caller(f"SUDO_UID={sudo_uid} is in no user database") from None
        return Caller(caller, group, (group,))  # no more groups than sudo itself vouches for
    return Caller(caller, account.pw_gid, tuple(os.getgrouplist(account.pw_name, account.pw_gid)))


def _id(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()) or int(text) > _HIGHEST_UID:
        return None
    return int(text)


def _unknown_caller(why: str) -> PolicyRefused:
    return PolicyRefused(
        Problem(
            "caller_unknown",
            "",
            f"{why}, so the rights that may be delegated cannot be checked",
            expected="the numeric id of the user who called sudo",
            fix="unset SUDO_UID",
        )
    )


def as_caller(caller: Caller, work: Callable[[HasAccess], T]) -> T:
    """Run `work` so that every file it opens or stats is looked up with `caller`'s rights alone.

    `work` receives the access check that belongs to those rights. Descriptors it opens are the process's.
    Raises `PolicyRefused` when we may not take on the caller's credentials, and whatever `work` raises.
    """
    if caller.uid == os.getuid() == os.geteuid():
        return work(_own_access)
    return _in_thread(lambda: work(_take_on(caller)))


def lower_thread(user: Caller) -> None:
    """Give the current thread `user`'s file-system rights and no capability at all, root included, for good.

    Raises `PolicyRefused` when that cannot be done.
    """
    _take_on(user)


def _own_access(descriptor: int, mode: int) -> bool:
    # The link leads straight to the open object, whatever its path has become; real and effective ids agree.
    return os.access(f"/proc/self/fd/{descriptor}", mode)


def _in_thread(work: Callable[[], T]) -> T:
    """Credentials are per thread in Linux; a thread that ends takes them along: there is nothing to restore.

    Changing them makes the process undumpable (PR_SET_DUMPABLE(2const)): core dumps go, root keeps access.
    """
    import threading

    results: list[T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=body, name="caller-rights")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _take_on(caller: Caller) -> HasAccess:
    """Turn the current thread's file-system identity into `caller`, without any capability, for good."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    setgroups = _SETGROUPS.get(os.uname().machine)
    if setgroups is None:
        raise _cannot_act_for(caller, f"unknown system call numbers on {os.uname().machine}")
    groups = (ctypes.c_uint * len(caller.groups))(*caller.groups)
    if libc.syscall(ctypes.c_long(setgroups), ctypes.c_size_t(len(caller.groups)), groups) != 0:
        raise _cannot_act_for(caller, os.strerror(ctypes.get_errno()))
    unchanged = ctypes.c_uint(0xFFFFFFFF)
    for change, wanted in ((libc.setfsgid, caller.gid), (libc.setfsuid, caller.uid)):
        change(ctypes.c_uint(wanted))
        # These calls report no error; they answer the id in force before them.
        if change(unchanged) & 0xFFFFFFFF != wanted:
            raise _cannot_act_for(caller, "the kernel refused the user or group id")
    # A change of the fsuid drops only the file capabilities; CAP_SYS_PTRACE would still open /proc/*/root.
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise _cannot_act_for(caller, os.strerror(ctypes.get_errno()))
    return lambda descriptor, mode: _thread_access(libc, descriptor, mode)


def _thread_access(libc: ctypes.CDLL, descriptor: int, mode: int) -> bool:
    """faccessat2(2) on the descriptor itself with the thread's credentials (the C library would emulate)."""
    import ctypes
    import errno

    flags = ctypes.c_int(_AT_EACCESS | _AT_EMPTY_PATH)
    failed = libc.syscall(
        ctypes.c_long(_FACCESSAT2), ctypes.c_int(descriptor), b"", ctypes.c_int(mode), flags
    )
    if not failed:
        return True
    error = ctypes.get_errno()
    if error in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ETXTBSY):
        return False
    raise OSError(error, os.strerror(error))


def _cannot_act_for(caller: Caller, why: str) -> PolicyRefused:
    return PolicyRefused(
        Problem(
            "caller_rights",
            "",
            f"cannot check files with the rights of uid {caller.uid}: {why}",
            fix="run it as that user, without sudo",
        )
    )
