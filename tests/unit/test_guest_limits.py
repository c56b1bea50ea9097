"""Limits of a workload in a guest, and of the QEMU around it."""

from __future__ import annotations

import resource
import signal
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Limits
from backends.errors import PolicyRefused
from backends.inside.agent_protocol import EndedFlag
from backends.linux.cgroups import NO_CGROUPS, CgroupFacts
from backends.vm.guest_limits import mark_guest_hits, plan_guest_limits, plan_machine_limits

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

MIB = 1 << 20
ALL = Limits(memory_mib=64, pids=10, cpus=0.5, cpu_seconds=3, file_size_mib=1, open_files=64, tmp_mib=8)


def files(limits: Limits, memory_mib: int = 256) -> Mapping[str, str]:
    return dict(plan_guest_limits(limits, memory_mib).cgroup)


def test_each_limit_is_held_in_the_guest() -> None:
    plan = plan_guest_limits(ALL, 256)
    assert dict(plan.cgroup) == {
        "memory.max": str(64 * MIB),
        "pids.max": "10",
        "cpu.max": "50000 100000",
        **{name: text for name, text in plan.cgroup if name not in ("memory.max", "pids.max", "cpu.max")},
    }
    limits = {number: (soft, hard) for number, soft, hard in plan.rlimits}
    assert limits[resource.RLIMIT_FSIZE] == (MIB, MIB)
    assert limits[resource.RLIMIT_NOFILE] == (64, 64)
    assert limits[resource.RLIMIT_CORE] == (0, 0)
    assert plan.tmp_mib == 8
    assert {outcome.name: outcome.value for outcome in plan.outcomes} == {
        "memoryMib": 64,
        "pids": 10,
        "cpus": 0.5,
        "cpuSeconds": 3,
        "fileSizeMib": 1,
        "openFiles": 64,
        "tmpMib": 8,
    }
    assert all(outcome.mechanism.endswith("in the guest") for outcome in plan.outcomes)
    assert plan.warnings == ()


def test_nothing_is_written_about_swap_and_no_file_may_be_missing() -> None:
    assert all("swap" not in name and not name.startswith("?") for name in files(ALL))


def test_a_program_is_told_that_its_time_is_up_before_it_is_killed() -> None:
    limits = {number: (soft, hard) for number, soft, hard in plan_guest_limits(ALL, 256).rlimits}
    soft, hard = limits[resource.RLIMIT_CPU]
    assert (soft, hard) == (3, 4)


def test_without_limits_there_are_still_too_many_processes() -> None:
    plan = plan_guest_limits(Limits(), 256)
    assert {outcome.name for outcome in plan.outcomes} == {"pids"}
    assert resource.RLIMIT_NPROC in {number for number, _, _ in plan.rlimits}


@given(st.integers(1, 1 << 20))
def test_only_a_size_that_is_asked_for_gives_private_places_anew(tmp_mib: int) -> None:
    """Else each run would mount what the machine has mounted already, with half of its memory."""
    assert plan_guest_limits(Limits(), 256).private == ()
    asked = plan_guest_limits(Limits(tmp_mib=tmp_mib), 256)
    assert (asked.private, asked.tmp_mib) == (("/tmp", "/dev/shm", "/var/tmp"), tmp_mib)
    assert {outcome.name for outcome in asked.outcomes} == {"pids", "tmpMib"}


def test_no_workload_gets_more_memory_than_its_machine_has() -> None:
    plan_guest_limits(Limits(memory_mib=256), 256)
    with pytest.raises(PolicyRefused) as caught:
        plan_guest_limits(Limits(memory_mib=257), 256)
    assert caught.value.problems[0].code == "memory_beyond_machine"
    assert caught.value.path == "/mxcOps/limits/memoryMib"
    assert caught.value.fix == "mxcOps.vm.memoryMib: 321"


def test_a_limit_that_no_kernel_holds_is_refused() -> None:
    with pytest.raises(PolicyRefused) as caught:
        plan_guest_limits(Limits(pids=0), 256)
    assert caught.value.path == "/mxcOps/limits/pids"


def test_qemu_may_take_the_guests_memory_and_what_it_needs_itself() -> None:
    groups = CgroupFacts("v2", {"memory": "/m", "pids": "/p", "cpu": "/c"})
    plan = plan_machine_limits(256, groups)
    most = int(plan.cgroup["memory"]["memory.max"])
    assert 256 * MIB < most < 1024 * MIB
    assert int(plan.cgroup["pids"]["pids.max"]) < 1000
    assert "cpu" not in plan.cgroup, "a share of the processors is the guest's to hold"
    assert (resource.RLIMIT_CORE, 0) in plan.rlimits, "a guest's memory is not worth a core file"


def test_without_control_groups_qemu_has_its_rlimits_alone() -> None:
    plan = plan_machine_limits(256, NO_CGROUPS)
    assert plan.cgroup == {}
    assert (resource.RLIMIT_CORE, 0) in plan.rlimits


@pytest.mark.parametrize(
    ("flags", "ended_by", "hit"),
    [
        (EndedFlag(0), None, {}),
        (EndedFlag.HIT_MEMORY, signal.SIGKILL, {"memoryMib": True}),
        (EndedFlag.HIT_PIDS, None, {"pids": True}),
        (EndedFlag.HIT_MEMORY | EndedFlag.HIT_PIDS, None, {"memoryMib": True, "pids": True}),
        (EndedFlag(0), signal.SIGXCPU, {"cpuSeconds": True}),
        (EndedFlag(0), signal.SIGXFSZ, {"fileSizeMib": True}),
        (EndedFlag.TIMED_OUT, signal.SIGKILL, {}),
    ],
)
def test_hits_are_told(flags: EndedFlag, ended_by: int | None, hit: dict[str, bool]) -> None:
    outcomes = mark_guest_hits(plan_guest_limits(ALL, 256).outcomes, flags, ended_by)
    found = {outcome.name: outcome.hit for outcome in outcomes if outcome.hit}
    assert found == hit


def test_the_agent_always_tells_about_memory() -> None:
    outcomes = mark_guest_hits(plan_guest_limits(ALL, 256).outcomes, EndedFlag(0), None)
    hits = {outcome.name: outcome.hit for outcome in outcomes}
    assert hits["memoryMib"] is False
    assert hits["openFiles"] is None, "nobody tells about those"
