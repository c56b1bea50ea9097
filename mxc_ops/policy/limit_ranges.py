"""What may be asked of each limit, in documents and in Python: what the kernel can hold exactly.

Beyond these, a value would be rounded, wrap around or be refused by the kernel when the sandbox starts.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LIMIT_RANGES"]

_MIB = (1, 2**43 - 1)  # in bytes they must fit a signed 64-bit number: off_t, RLIMIT_FSIZE

LIMIT_RANGES: Mapping[str, tuple[float, float]] = {
    "memoryMib": _MIB,
    "pids": (1, 2**22),  # PID_MAX_LIMIT, proc_sys_kernel(5)
    "cpus": (
        0.01,
        8192,
    ),  # least quota 1 ms in a period of 100 ms, sched-bwc; most processors Linux is built for
    "cpuSeconds": (1, 2**32 - 1),
    "fileSizeMib": _MIB,
    "openFiles": (16, 2**31 - 1),
    "tmpMib": _MIB,
}
"""Limits by their document spelling → least and greatest value, both allowed; only `cpus` takes fractions."""
