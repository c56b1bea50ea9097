"""Whether this host has memory for one more virtual machine: refused early instead of swapped to death.

A clone shares its template's memory until it writes; what it will take is estimated, and what is kept free is
for everybody else on the host.
"""

from __future__ import annotations

from contextlib import suppress

from backends.errors import BackendUnavailable, Problem

__all__ = ["MIB", "admit", "available_bytes"]

MIB = 1 << 20
_RESERVE_BYTES = 256 * MIB
_OVERHEAD_BYTES = 32 * MIB
_EXPECTED_SHARE = 4


def admit(memory_mib: int, *, whole: bool, starting: int = 0, available: int | None = None) -> None:
    """Raise `BackendUnavailable` (retryable) when one more machine would leave the host without memory.

    Parameters
    ----------
    memory_mib: of the guest.
    whole: the guest will touch all of it (a cold boot); a clone is expected to touch a quarter.
    starting: how many machines were admitted that do not show in the host's figures yet.
    available: bytes of memory that the host can give; read from /proc/meminfo when left out.
    """
    if available is None:
        available = available_bytes()
    expected = memory_mib * MIB // (1 if whole else _EXPECTED_SHARE) + _OVERHEAD_BYTES
    needed = expected * (1 + starting) + _RESERVE_BYTES
    if available is not None and available < needed:
        message = (
            f"the host is full: another virtual machine of {memory_mib} MiB would leave it less than"
            f" {_RESERVE_BYTES // MIB} MiB of memory ({available // MIB} MiB are available)"
        )
        fix = "wait until other machines have ended, or ask for less with mxcOps.vm.memoryMib"
        raise BackendUnavailable(Problem("host_full", "", message, fix=fix), retryable=True)


def available_bytes() -> int | None:
    """MemAvailable (proc(5)); None where it is not told."""
    with suppress(OSError, ValueError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
