"""Which mechanism holds which limit: pure planning over what the host offers.

A limit that no mechanism holds is refused by name, unless the document lists it under
``mxcOps.limits.bestEffort`` (issue 1, Limits; spec: upstream-gaps.md P2).
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Mapping

from backends.base import Limits
from backends.ended import LimitOutcome
from backends.errors import PolicyRefused, Problem
from backends.frozen import frozen, replace
from backends.linux.cgroups import CgroupFacts, limit_settings

MIB = 1024 * 1024
DEFAULT_PIDS = 1024
DEFAULT_TMP_MIB = 256
LEAST_CPUS = 0.01  # the scheduler gives no less than 1 ms in 100
_MOST = 2**40
_POINTER = "/mxcOps/limits"
_OF_COMMANDS = (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)


@frozen
class LimitPlan:
    """How every limit of one run is held.

    `rlimits` are (resource number, value) for each process inside; `cgroup` is controller → file → text;
    `tmp_bytes` is the size of the private ``/tmp`` and of ``/dev/shm``. `outcomes` tell the caller.
    """

    rlimits: tuple[tuple[int, int], ...]
    cgroup: Mapping[str, Mapping[str, str]]
    tmp_bytes: int
    outcomes: tuple[LimitOutcome, ...]
    warnings: tuple[str, ...]


def plan_limits(limits: Limits, cgroups: CgroupFacts, overhead_processes: int) -> LimitPlan:
    """Choose a mechanism for each asked limit and set safe defaults for pids, ``/tmp`` and core dumps.

    Parameters
    ----------
    limits: what the document asks for.
    cgroups: from `observe_cgroups`; `NO_CGROUPS` where the caller may not make groups.
    overhead_processes: processes of ours inside the group, which must not count as the workload's.

    Raises `PolicyRefused` naming a limit that nothing here can hold, or that no kernel can.
    """
    _check_ranges(limits)
    groups = cgroups.parents
    pids = DEFAULT_PIDS if limits.pids is None else limits.pids
    tmp_mib = DEFAULT_TMP_MIB if limits.tmp_mib is None else limits.tmp_mib
    rlimits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NPROC: pids + 1}  # + 1: init has the same uid
    outcomes: list[LimitOutcome] = []
    warnings: list[str] = []

    def held(name: str, value: float, mechanism: str, scope: str) -> None:
        outcomes.append(LimitOutcome(name, value, mechanism, scope))

    if limits.memory_mib is not None:
        if "memory" in groups:
            held("memoryMib", limits.memory_mib, f"cgroup {cgroups.version} memory", "sandbox")
        else:
            rlimits[resource.RLIMIT_AS] = limits.memory_mib * MIB
            held("memoryMib", limits.memory_mib, "RLIMIT_AS", "process")
            warnings.append(
                f"memoryMib is held per process (RLIMIT_AS), for up to {pids} processes, and {tmp_mib} MiB"
                " each in /tmp and /dev/shm come on top: no memory control group is ours to use"
            )
    grouped_pids = limits.pids is not None and "pids" in groups
    mechanism = f"cgroup {cgroups.version} pids and RLIMIT_NPROC" if grouped_pids else "RLIMIT_NPROC"
    held("pids", pids, mechanism, "sandbox")
    if limits.cpus is not None:
        if "cpu" in groups:
            held("cpus", limits.cpus, f"cgroup {cgroups.version} cpu", "sandbox")
        elif "cpus" in limits.best_effort:
            warnings.append("cpus is not held: no cpu control group is ours to use (bestEffort)")
        else:
            raise PolicyRefused(_nothing_holds_cpus())
    _add_process_limits(limits, rlimits, outcomes)
    held("tmpMib", tmp_mib, "tmpfs size", "sandbox")
    settings = limit_settings(
        cgroups.version,
        limits.memory_mib if "memory" in groups else None,
        pids + overhead_processes if grouped_pids else None,
        limits.cpus if "cpu" in groups else None,
    )
    return LimitPlan(
        tuple(sorted(rlimits.items())), settings, tmp_mib * MIB, tuple(outcomes), tuple(warnings)
    )


def with_agent(plan: LimitPlan) -> LimitPlan:
    """The plan for a sandbox whose commands an agent starts: it is no process of theirs, and what it would
    use up itself (`of_commands`) binds them alone."""
    rlimits = tuple(
        (number, value + 1 if number == resource.RLIMIT_NPROC else value)
        for number, value in plan.rlimits
        if number not in _OF_COMMANDS
    )
    groups = {controller: dict(files) for controller, files in plan.cgroup.items()}
    if "pids" in groups:
        groups["pids"] = {name: str(int(most) + 1) for name, most in groups["pids"].items()}
    return replace(plan, rlimits=rlimits, cgroup=groups)


def of_commands(plan: LimitPlan) -> tuple[tuple[int, int, int], ...]:
    """(resource, soft, hard) for each command that an agent starts under `with_agent`."""
    return tuple(hold(number, value) for number, value in plan.rlimits if number in _OF_COMMANDS)


def hold(number: int, value: int) -> tuple[int, int, int]:
    """(resource, soft, hard). Where our own hard limit is lower, it holds already, and cannot be raised.

    At its hard limit of CPU time a process is killed; at the soft one it gets SIGXCPU, which tells.
    """
    soft, hard = value, value + 1 if number == resource.RLIMIT_CPU else value
    ours = resource.getrlimit(number)[1]
    return (
        (number, soft, hard) if ours == resource.RLIM_INFINITY else (number, min(soft, ours), min(hard, ours))
    )


def _check_ranges(limits: Limits) -> None:
    """Documents and `Policy` check ranges themselves; a request may come from elsewhere."""
    asked = {
        "memoryMib": limits.memory_mib,
        "pids": limits.pids,
        "cpus": limits.cpus,
        "cpuSeconds": limits.cpu_seconds,
        "fileSizeMib": limits.file_size_mib,
        "openFiles": limits.open_files,
        "tmpMib": limits.tmp_mib,
    }
    for name, value in asked.items():
        least = LEAST_CPUS if name == "cpus" else 1
        if value is not None and not least <= value <= _MOST:
            raise PolicyRefused(
                Problem(
                    "limit_not_enforceable",
                    f"{_POINTER}/{name}",
                    f"no kernel holds a limit of {value}",
                    expected=f"a number from {least} to {_MOST}",
                )
            )


def _add_process_limits(limits: Limits, rlimits: dict[int, int], outcomes: list[LimitOutcome]) -> None:
    for name, value, number, unit, scope in (
        ("cpuSeconds", limits.cpu_seconds, resource.RLIMIT_CPU, 1, "process"),
        ("fileSizeMib", limits.file_size_mib, resource.RLIMIT_FSIZE, MIB, "file"),
        ("openFiles", limits.open_files, resource.RLIMIT_NOFILE, 1, "process"),
    ):
        if value is not None:
            rlimits[number] = value * unit
            outcomes.append(LimitOutcome(name, value, _RLIMIT_NAMES[number], scope))


_RLIMIT_NAMES = {
    resource.RLIMIT_CPU: "RLIMIT_CPU",
    resource.RLIMIT_FSIZE: "RLIMIT_FSIZE",
    resource.RLIMIT_NOFILE: "RLIMIT_NOFILE",
}


def _nothing_holds_cpus() -> Problem:
    return Problem(
        "limit_not_enforceable",
        f"{_POINTER}/cpus",
        "nothing on this host can hold a share of the processors for this caller: no cpu control group",
        expected="cpuSeconds (held by RLIMIT_CPU), or a host where the caller may make control groups",
        fix='run as root, or add "bestEffort": ["cpus"] to mxcOps.limits',
    )


def mark_hits(
    outcomes: tuple[LimitOutcome, ...], group_hits: Mapping[str, bool], ended_by: int | None
) -> tuple[LimitOutcome, ...]:
    """Fill in which limits were hit.

    Parameters
    ----------
    outcomes: from the plan.
    group_hits: controller → hit, from the control groups.
    ended_by: the signal that ended the workload, if one did.
    """
    by_name: dict[str, bool] = {}
    for controller, name in (("memory", "memoryMib"), ("pids", "pids"), ("cpu", "cpus")):
        if controller in group_hits:
            by_name[name] = group_hits[controller]
    # Only the workload's own end tells; what happened to its children does not reach us.
    if ended_by == signal.SIGXCPU:
        by_name["cpuSeconds"] = True
    if ended_by == signal.SIGXFSZ:
        by_name["fileSizeMib"] = True
    return tuple(replace(outcome, hit=by_name.get(outcome.name)) for outcome in outcomes)
