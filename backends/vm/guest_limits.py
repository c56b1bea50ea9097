"""Which limit is held by what, inside the guest and around it (pure).

A guest's own control groups hold a workload's share; around them stands the machine's size: no workload gets
more memory, or more processors, than its machine has.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Mapping

from backends.base import Limits
from backends.ended import LimitOutcome
from backends.errors import PolicyRefused, Problem
from backends.frozen import frozen, replace
from backends.inside.agent_protocol import EndedFlag
from backends.linux.cgroups import CgroupFacts, limit_settings
from backends.linux.limits import LimitPlan, plan_limits

__all__ = ["GuestLimits", "mark_guest_hits", "plan_guest_limits", "plan_machine_limits"]

_GUEST_CGROUPS = CgroupFacts("v2", {"memory": "", "pids": "", "cpu": ""})
_QEMU_OVERHEAD_MIB = 320  # code, translated blocks (TCG keeps some 100 MiB of them), devices
_QEMU_PROCESSES = 128  # its threads count, too: its block layer alone starts up to 64 when disks are slow
_SYSTEM_MIB = 64  # what kernel, agent and page tables take of a guest
_PRIVATE = ("/tmp", "/dev/shm", "/var/tmp")  # noqa: S108 - the guest's: all that its users can write to


@frozen
class GuestLimits:
    """`rlimits` and `cgroup` (file, text) are the workload's in the guest; each `private` has `tmp_mib`.

    Without a limit that is asked for nothing is private: the machine's own /tmp takes half of its memory.
    """

    rlimits: tuple[tuple[int, int, int], ...]
    cgroup: tuple[tuple[str, str], ...]
    tmp_mib: int
    private: tuple[str, ...]
    outcomes: tuple[LimitOutcome, ...]
    warnings: tuple[str, ...]


def plan_guest_limits(limits: Limits, guest_memory_mib: int) -> GuestLimits:
    """How the guest holds what is asked for.

    Parameters
    ----------
    guest_memory_mib: the machine's memory.

    Raises `PolicyRefused` for a limit that no kernel holds, and for more memory than the machine has.
    """
    if limits.memory_mib is not None and limits.memory_mib > guest_memory_mib:
        raise PolicyRefused(
            Problem(
                "memory_beyond_machine",
                "/mxcOps/limits/memoryMib",
                f"the virtual machine itself has {guest_memory_mib} MiB only",
                fix=f"mxcOps.vm.memoryMib: {limits.memory_mib + _SYSTEM_MIB}",
            )
        )
    plan = plan_limits(limits, _GUEST_CGROUPS, 0)
    return GuestLimits(
        rlimits=tuple(_rlimit(number, value) for number, value in plan.rlimits),
        cgroup=tuple(
            (file.removeprefix("?"), text)
            for files in plan.cgroup.values()
            for file, text in files.items()
            if "swap" not in file  # a guest has none
        ),
        tmp_mib=limits.tmp_mib or 0,
        private=_PRIVATE if limits.tmp_mib is not None else (),
        outcomes=tuple(
            replace(outcome, mechanism=f"{outcome.mechanism}, in the guest")
            for outcome in plan.outcomes
            if outcome.name != "tmpMib" or limits.tmp_mib is not None
        ),
        warnings=plan.warnings,
    )


def plan_machine_limits(guest_memory_mib: int, cgroups: CgroupFacts) -> LimitPlan:
    """What holds QEMU itself, guest included, where the caller may make control groups."""
    memory = guest_memory_mib + _QEMU_OVERHEAD_MIB if "memory" in cgroups.parents else None
    pids = _QEMU_PROCESSES if "pids" in cgroups.parents else None
    settings = limit_settings(cgroups.version, memory, pids, None)
    return LimitPlan(((resource.RLIMIT_CORE, 0),), settings, 0, (), ())


def mark_guest_hits(
    outcomes: tuple[LimitOutcome, ...], flags: EndedFlag, ended_by: int | None
) -> tuple[LimitOutcome, ...]:
    """Fill in which limits were hit, as far as the guest tells."""
    by_name: Mapping[str, bool | None] = {
        "memoryMib": EndedFlag.HIT_MEMORY in flags,
        "pids": EndedFlag.HIT_PIDS in flags or None,
        "cpuSeconds": ended_by == signal.SIGXCPU or None,
        "fileSizeMib": ended_by == signal.SIGXFSZ or None,
    }
    return tuple(replace(outcome, hit=by_name.get(outcome.name)) for outcome in outcomes)


def _rlimit(number: int, value: int) -> tuple[int, int, int]:
    """At its hard limit of CPU time a process is killed; at the soft one it gets SIGXCPU, which tells."""
    return (number, value, value + 1 if number == resource.RLIMIT_CPU else value)
