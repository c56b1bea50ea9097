"""Every limit bites, and the result says by which mechanism it was held and whether it was hit (gap P2)."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.security.callers import Caller


def _in_control_group(caller: Caller, name: str) -> bool:
    if caller.session:
        return caller.uid == 0
    told = caller.run("true", limits={name: 100})
    return "cgroup" in told.limits[_DOCUMENT_NAMES[name]][0]


_DOCUMENT_NAMES = {"memory_mib": "memoryMib", "pids": "pids"}


def test_memory_of_the_whole_sandbox_by_a_control_group(caller: Caller, probe: Path) -> None:
    if not _in_control_group(caller, "memory_mib"):
        pytest.skip("this caller may make no memory control group")
    policy: dict[str, Any] = {"read_only": [probe.parent], "limits": {"memory_mib": 60}}
    fits = caller.run([probe, "memory=20"], **policy)
    assert fits.results["memory"] == "ok"
    assert caller.session or fits.limits["memoryMib"][1] is False
    # Each of the two alone would fit.
    told = caller.run(f"{probe} memory=40,5 & sleep 0.3; {probe} memory=40", **policy)
    assert "SIGKILL" in told.stdout or "Killed" in told.stderr, told
    if not caller.session:
        mechanism, hit = told.limits["memoryMib"]
        assert mechanism.startswith("cgroup v") and hit is True


def test_memory_over_the_limit_kills_the_workload_with_137(caller: Caller, probe: Path) -> None:
    if not _in_control_group(caller, "memory_mib"):
        pytest.skip("this caller may make no memory control group")
    grow = "s=x; while :; do s=$s$s; done"
    told = caller.run(["sh", "-c", grow], limits={"memory_mib": 60})
    assert told.exit_code == 137
    assert caller.session or told.limits["memoryMib"][1] is True


def test_memory_of_a_process_by_rlimit(caller: Caller, probe: Path) -> None:
    if _in_control_group(caller, "memory_mib"):
        pytest.skip("a control group holds the whole sandbox, which is better")
    told = caller.run(
        [probe, "memory=20", "memory=200"], read_only=[probe.parent], limits={"memory_mib": 100}
    )
    assert told.stdout.splitlines() == ["memory ok", "memory ENOMEM"]
    assert caller.session or told.limits["memoryMib"][0] == "RLIMIT_AS"


def test_without_a_limit_the_same_memory_is_there(caller: Caller, probe: Path) -> None:
    assert caller.run([probe, "memory=200"], read_only=[probe.parent]).results["memory"] == "ok"


def test_processes(caller: Caller, probe: Path) -> None:
    attack = [probe, "processes=100"]
    free = caller.run(attack, read_only=[probe.parent])
    assert free.stdout.splitlines() == ["made 100", "processes ok"]
    told = caller.run(attack, read_only=[probe.parent], limits={"pids": 20})
    made, result = told.stdout.splitlines()
    # The probe and the child that makes the attempt are two of the twenty, a session's agent is none of them.
    assert (made, result) == ("made 18", "processes EAGAIN")
    assert caller.session or "RLIMIT_NPROC" in told.limits["pids"][0]


def test_processes_without_a_limit_asked_for_are_limited(caller: Caller, probe: Path) -> None:
    told = caller.run([probe, "processes=3000"], read_only=[probe.parent])
    assert "processes EAGAIN" in told.stdout
    assert int(told.stdout.split()[1]) < 1100


def test_processors_by_a_control_group(caller: Caller, probe: Path) -> None:
    policy: dict[str, Any] = {"read_only": [probe.parent], "limits": {"cpus": 0.1}}
    attack = [probe, "spin=1500"]
    if caller.uid != 0:
        told = caller.attempt(attack, **policy)
        assert told.codes == ("limit_not_enforceable",)
        assert "cpus" in told.stderr
        return
    source = """
from mxc_ops import Limits, Policy, run

def main(command, folder, cpus):
    result = run(Policy(containment=CONTAINMENT, read_only=[folder], limits=Limits(cpus=cpus)), command)
    used = result.usage.user_ms + result.usage.system_ms
    return [used / result.usage.wall_ms, [(l.mechanism, l.hit) for l in result.limits if l.name == "cpus"]]
"""
    share, held = caller.call(source, command=attack, folder=probe.parent, cpus=0.1)
    assert share < 0.3, "of one processor"
    assert held == [["cgroup v1 cpu", True]] or held == [["cgroup v2 cpu", True]]
    assert caller.call(source, command=attack, folder=probe.parent, cpus=None)[0] > share


def test_best_effort_goes_on_without_what_nothing_holds(caller: Caller) -> None:
    told = caller.run("true", limits={"cpus": 0.5, "best_effort": ["cpus"]})
    if caller.uid != 0:
        assert "cpus" not in told.limits


def test_seconds_of_processor_time(caller: Caller, probe: Path) -> None:
    policy: dict[str, Any] = {"read_only": [probe.parent], "limits": {"cpu_seconds": 1}}
    assert caller.run([probe, "spin=30000"], **policy).results["spin"] == "SIGXCPU"
    told = caller.run(["sh", "-c", "while :; do :; done"], **policy)
    assert (told.exit_code, told.outcome) == (128 + signal.SIGXCPU, "signalled")
    assert caller.session or told.limits["cpuSeconds"] == ("RLIMIT_CPU", True)


def test_seconds_of_processor_time_for_who_ignores_the_signal(caller: Caller) -> None:
    told = caller.run(["sh", "-c", "trap '' XCPU; while :; do :; done"], limits={"cpu_seconds": 1})
    assert (told.exit_code, told.outcome) == (128 + signal.SIGKILL, "signalled")


@pytest.mark.parametrize("where", ["/tmp/a", "/dev/shm/a", "{place}/a"])
def test_size_of_files(caller: Caller, probe: Path, place: Path, where: str) -> None:
    file = where.format(place=place)
    policy: dict[str, Any] = {"read_only": [probe.parent], "read_write": [place]}
    assert caller.run([probe, f"fill={file},8"], **policy).results["fill"] == "ok"
    (place / "a").unlink(missing_ok=True)
    told = caller.run(
        ["sh", "-c", f"exec head -c 9M /dev/zero > {file}"], limits={"file_size_mib": 4}, **policy
    )
    assert told.outcome == "signalled" and told.exit_code == 128 + signal.SIGXFSZ
    assert caller.session or told.limits["fileSizeMib"] == ("RLIMIT_FSIZE", True)
    if (place / "a").exists():
        assert (place / "a").stat().st_size == 4 * 1024 * 1024


def test_open_files(caller: Caller, probe: Path) -> None:
    attack = [probe, "descriptors=100"]
    assert caller.run(attack, read_only=[probe.parent]).results["descriptors"] == "ok"
    told = caller.run(attack, read_only=[probe.parent], limits={"open_files": 50})
    assert told.results["descriptors"] == "EMFILE"
    assert caller.session or told.limits["openFiles"][0] == "RLIMIT_NOFILE"


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_private_directories(caller: Caller, probe: Path, folder: str) -> None:
    attack = [probe, f"fill={folder}/a,12"]
    assert caller.run(attack, read_only=[probe.parent]).results["fill"] == "ok"
    told = caller.run(attack, read_only=[probe.parent], limits={"tmp_mib": 8})
    assert told.results["fill"] == "ENOSPC"
    assert caller.session or told.limits["tmpMib"][0] == "tmpfs size"


@pytest.mark.parametrize("folder", ["/", "/run", "/var", "/etc", "/dev", "/usr", "/proc"])
def test_there_is_no_other_place_to_fill(caller: Caller, probe: Path, folder: str) -> None:
    told = caller.run([probe, f"fill={folder.rstrip('/')}/a,1"], read_only=[probe.parent])
    assert told.results["fill"] in ("EROFS", "EACCES", "ENOENT", "EPERM")


def test_limits_cannot_be_raised_again(caller: Caller, probe: Path) -> None:
    limits = {"open_files": 50, "file_size_mib": 4, "pids": 20, "cpu_seconds": 5}
    told = caller.run("for l in n f u t; do ulimit -H -$l 100000 || ulimit -$l; done", limits=limits)
    assert told.stderr.count("ermit") + told.stderr.count("exceed") >= 3, told
    assert "100000" not in told.stdout


@pytest.mark.parametrize("grace_s", [0.0, 0.2])
def test_the_wall_clock(caller: Caller, grace_s: float) -> None:
    told = caller.run(
        "trap 'echo asked' TERM; while :; do sleep 0.05; done", timeout_s=0.3, grace_s=grace_s, ends=False
    )
    assert (told.exit_code, told.outcome) == (124, "timed out")
    assert told.stdout == ("asked\n" if grace_s else "")
    assert told.limits["timeoutMs"][1] is True


def test_the_caller_keeps_its_own_limits(caller: Caller) -> None:
    source = """
import resource
from mxc_ops import Limits, Policy, run

def main():
    numbers = (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_AS)
    read = lambda: [resource.getrlimit(number) for number in numbers]
    before = read()
    limits = Limits(pids=20, file_size_mib=4, memory_mib=200)
    run(Policy(containment=CONTAINMENT, limits=limits), "true")
    return before == read()
"""
    assert caller.call(source) is True


def test_a_core_dump_is_never_written(caller: Caller, place: Path) -> None:
    caller.run(f"cd {place}; ulimit -c unlimited; sh -c 'kill -SEGV $$'", read_write=[place])
    assert list(place.iterdir()) == []
