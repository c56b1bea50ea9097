"""Whether limits really bite: something that takes more than it may is started under them."""

from __future__ import annotations

import os
import sys

from backends.linux.cgroups import CgroupFacts, SandboxCgroup, limit_settings
from backends.linux.trial import Outcome, attempt

__all__ = ["BITTEN", "exceed_memory", "exceed_pids", "has_bitten"]

_DEADLINE_S = 20
_MEMORY_MIB, _TAKEN_MIB = 64, 256
_PIDS, _STARTED = 8, 64
BITTEN = 42
"""Status of an attempt that was told "no", rather than killed."""

# Each joins its control groups, then sets a limit of its own where there is no group for it.
_JOIN = """
import os, resource, sys
for fd in sys.argv[1].split():
    os.write(int(fd), b"0")
def limit(kind, value):
    resource.setrlimit(kind, (value, value))
"""
_TAKE_MEMORY = f"""
if not sys.argv[1]:
    limit(resource.RLIMIT_AS, {_MEMORY_MIB} << 20)
try:
    bytearray({_TAKEN_MIB} << 20)
except MemoryError:
    sys.exit({BITTEN})
"""
# The children end with their parent, however that ends: their end of the pipe is closed then.
_START_MANY = f"""
if not sys.argv[1]:
    limit(resource.RLIMIT_NPROC, 1)
status = 0
reader, writer = os.pipe()
for _ in range({_STARTED}):
    try:
        child = os.fork()
    except BlockingIOError:
        status = {BITTEN}
        break
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
os.close(writer)
try:
    while True:
        os.wait()
except ChildProcessError:
    os._exit(status)
"""


def exceed_memory(groups: CgroupFacts) -> Outcome:
    """Take four times the memory that is allowed: by a control group where there is one, else per process."""
    return _exceed("memory", _TAKE_MEMORY, groups)


def exceed_pids(groups: CgroupFacts) -> Outcome:
    """Start eight times the processes that are allowed. Without a control group not for root, who may."""
    return _exceed("pids", _START_MANY, groups)


def _exceed(controller: str, source: str, groups: CgroupFacts) -> Outcome:
    argv = [sys.executable, "-I", "-S", "-B", "-c", _JOIN + source]
    if controller not in groups.parents:
        return attempt([*argv, ""], deadline_s=_DEADLINE_S)
    asked = limit_settings(
        groups.version,
        _MEMORY_MIB if controller == "memory" else None,
        _PIDS if controller == "pids" else None,
        None,
    )
    try:
        group = SandboxCgroup(groups, asked)
    except OSError as error:
        return Outcome(1, f"no control group could be made: {error}")
    fds: list[int] = []
    try:
        fds = group.open_join_fds()
        return attempt([*argv, " ".join(map(str, fds))], deadline_s=_DEADLINE_S, keep=fds)
    finally:
        for fd in fds:
            os.close(fd)
        group.remove()


def has_bitten(outcome: Outcome) -> bool:
    """Whether an attempt to take too much was killed (by the kernel, not by its deadline) or refused."""
    return outcome.status in (BITTEN, -9)
