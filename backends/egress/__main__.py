"""``python -m backends.egress FD``: the filtering proxy's process. FD is a memfd with `EgressSettings` in it.

Everything is loaded while the process is still who started it: whom it becomes need not be able to read our
files, and what it reads then is hostile.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys

import dns.rdata

from backends.egress.bounds import DESCRIPTORS
from backends.egress.serving import serve
from backends.egress.settings import EgressSettings, decode

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38  # linux/prctl.h
_LONGEST_SETTINGS = 16 << 20


def main(arguments: list[str]) -> int:
    """Serve; 0 when the owner has gone, 1 when serving never began."""
    try:
        settings = _read_settings(int(arguments[0]))
        _keep_only(settings.descriptors)
        dns.rdata.load_all_types()
        for number in (signal.SIGINT, signal.SIGHUP):  # the terminal's; our end is the owner's
            signal.signal(number, signal.SIG_IGN)
        _take_descriptors()
        _become(settings.user)
    except (OSError, ValueError, IndexError) as error:
        sys.stderr.write(f"filtering proxy: {error}\n")
        return 1
    asyncio.run(serve(settings))
    return 0


def _read_settings(fd: int) -> EgressSettings:
    text = os.pread(fd, _LONGEST_SETTINGS, 0)
    os.close(fd)
    return decode(text)


def _keep_only(descriptors: tuple[int, ...]) -> None:
    """Whatever else the starter's own starter left open is nothing for who reads what is hostile."""
    first = 3
    for fd in sorted({*descriptors}):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _take_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _become(user: tuple[int, int] | None) -> None:
    """Take the identity on, without a way back. Raises OSError where that is not granted."""
    if user is not None:
        uid, gid = user
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
            raise PermissionError(f"the proxy is not, and cannot become, uid {uid} and gid {gid}")
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_DUMPABLE, 0)):
        if libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3):
            raise OSError(ctypes.get_errno(), "prctl refused")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
