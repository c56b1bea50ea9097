"""Limits that reach the backend without a document's or a policy's own checks."""

from __future__ import annotations

from typing import Any

import pytest

from backends.base import Environment, Limits
from backends.errors import PolicyRefused
from backends.linux.cgroups import NO_CGROUPS, CgroupFacts, limit_settings
from backends.linux.limits import DEFAULT_PIDS, mark_hits, plan_limits

GROUPS = CgroupFacts("v2", {"memory": "/cg", "pids": "/cg", "cpu": "/cg"})


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        ("pids", "pids", 0),
        ("tmp_mib", "tmpMib", 0),
        ("memory_mib", "memoryMib", -1),
        ("memory_mib", "memoryMib", 2**60),
        ("cpus", "cpus", 0.001),
        ("open_files", "openFiles", 0),
    ],
)
def test_a_limit_that_no_kernel_holds_is_refused_never_replaced(field: str, name: str, value: Any) -> None:
    with pytest.raises(PolicyRefused) as caught:
        plan_limits(Limits(**{field: value}), GROUPS, 2)
    assert caught.value.path == f"/mxcOps/limits/{name}"


def test_without_limits_processes_are_limited_all_the_same() -> None:
    outcomes = {outcome.name: outcome.value for outcome in plan_limits(Limits(), NO_CGROUPS, 2).outcomes}
    assert outcomes["pids"] == DEFAULT_PIDS


def test_v2_limits_are_written_in_its_own_files() -> None:
    assert limit_settings("v2", 64, 12, 0.5) == {
        "memory": {"memory.max": str(64 << 20), "?memory.swap.max": "0", "?memory.oom.group": "1"},
        "pids": {"pids.max": "12"},
        "cpu": {"cpu.max": "50000 100000"},
    }


def test_what_no_mechanism_tells_is_left_open() -> None:
    plan = plan_limits(Limits(cpu_seconds=1, file_size_mib=1), NO_CGROUPS, 2)
    hits = {outcome.name: outcome.hit for outcome in mark_hits(plan.outcomes, {}, None)}
    assert hits == {"pids": None, "cpuSeconds": None, "fileSizeMib": None, "tmpMib": None}


def test_an_environment_shows_names_only() -> None:
    assert repr(Environment((("TOKEN", "hunter2"),))) == "Environment(TOKEN)"
