"""What a template depends on and only the host can tell: its processor, the rate of its time-stamp counter.

Under TCG the guest's counter is the host's (lab §1), and a guest that is not told the rate at boot hangs in
one of ten boots of a microvm, while it tries to find out.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from contextlib import suppress

from backends.digest import sha256
from backends.frozen import frozen
from backends.linux.boot_cache import cached

__all__ = ["HostValues", "observe_host_values"]

_READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_MEASURED_S = 0.05
_ROUNDS = 3
_KHZ_STEP = 1000


@frozen
class HostValues:
    """`tsc_khz` is rounded to 1 MHz; 0 when it cannot be told. `cpu` identifies the processor's model."""

    tsc_khz: int
    cpu: str


def observe_host_values() -> HostValues:
    """Measured once per boot of the host (0.15 s), then read from the cache."""
    return HostValues(int(cached("tsc-khz", _tsc_khz)), _cpu_model())


def _tsc_khz() -> str:
    rounds = sorted(_measure() for _ in range(_ROUNDS))
    middle = rounds[len(rounds) // 2] or _khz_of_cpuinfo()
    return str(round(middle / _KHZ_STEP) * _KHZ_STEP)


def _measure() -> float:
    """Kilohertz, by counting for a while; 0 where no code of ours may be made executable."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return 0.0
    page.write(_READ_COUNTER)
    place = ctypes.c_char.from_buffer(page)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
    counted, since = read(), time.perf_counter_ns()
    time.sleep(_MEASURED_S)
    counted, passed = read() - counted, time.perf_counter_ns() - since
    del read, place  # else the page cannot be let go
    page.close()
    return counted * 1e6 / passed


def _khz_of_cpuinfo() -> float:
    with suppress(OSError, ValueError, IndexError):
        return float(_cpuinfo("cpu MHz")) * 1000
    return 0.0


def _cpu_model() -> str:
    words = [_cpuinfo(name) for name in ("vendor_id", "model name", "stepping", "flags")]
    return sha256("\0".join(words).encode()).hexdigest()[:16]


def _cpuinfo(name: str) -> str:
    with suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return os.uname().machine
