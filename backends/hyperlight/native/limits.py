"""Which limit of a run is held by what (pure).

The machine has one processor, no processes and no files, and its memory is its size. Around it stand the
control groups and limits of the worker, which is the packages' host side: what of it the workload does not
see.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator

from backends.base import Limits
from backends.ended import LimitOutcome
from backends.frozen import frozen
from backends.hyperlight.native.refusals import LEAST_MEMORY_MIB
from backends.linux.cgroups import CgroupFacts, limit_settings
from backends.linux.limits import LimitPlan, plan_limits

__all__ = ["MachineSize", "machine_size", "plan_worker_limits"]

_HEAP_OF = (5, 12)  # as the packages' own 25 MiB are of 60
_OVERHEAD_MIB = (
    384  # interpreter and packages, 44 MiB of the guest's code twice, and the copies made of a call
)
_PROCESSES = 64  # the library's threads: they count, too
_BY_THEMSELVES = ("cpus", "cpuSeconds")
_NOTHING_OF_IT = {
    "pids": "a machine without processes",
    "fileSizeMib": "a machine without files",
    "openFiles": "a machine without files",
    "tmpMib": "a machine without files",
}


@frozen
class MachineSize:
    """In MiB: `heap` is what the guest's program is loaded to, `stack` what it can write to."""

    heap: int
    stack: int

    @property
    def total(self) -> int:
        return self.heap + self.stack


def machine_size(limits: Limits) -> MachineSize:
    """The limit itself, or what the packages choose."""
    total = limits.memory_mib or LEAST_MEMORY_MIB
    heap = total * _HEAP_OF[0] // _HEAP_OF[1]
    return MachineSize(heap, total - heap)


def plan_worker_limits(limits: Limits, size: MachineSize, cgroups: CgroupFacts) -> LimitPlan:
    """Raises `PolicyRefused` for a share of the processors that nothing here holds."""
    asked = Limits(cpus=limits.cpus, cpu_seconds=limits.cpu_seconds, best_effort=limits.best_effort)
    plan = plan_limits(asked, cgroups, 0)
    groups = {name: dict(files) for name, files in plan.cgroup.items()}
    memory = size.total + _OVERHEAD_MIB if "memory" in cgroups.parents else None
    pids = _PROCESSES if "pids" in cgroups.parents else None
    groups |= limit_settings(cgroups.version, memory, pids, None)
    rlimits = {**dict(plan.rlimits), resource.RLIMIT_NPROC: _PROCESSES}
    outcomes = (
        *(outcome for outcome in plan.outcomes if outcome.name in _BY_THEMSELVES),
        *_held_by_the_machine(limits),
    )
    return LimitPlan(tuple(sorted(rlimits.items())), groups, 0, outcomes, plan.warnings)


def _held_by_the_machine(limits: Limits) -> Iterator[LimitOutcome]:
    if limits.memory_mib is not None:
        yield LimitOutcome("memoryMib", limits.memory_mib, "the machine's own size", "sandbox")
    values = {
        "pids": limits.pids,
        "fileSizeMib": limits.file_size_mib,
        "openFiles": limits.open_files,
        "tmpMib": limits.tmp_mib,
    }
    for name, value in values.items():
        if value is not None:
            yield LimitOutcome(name, value, _NOTHING_OF_IT[name], "sandbox")
