"""Limits, and what no workload may do, the same in every containment: held, and told when they were hit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from mxc_ops import Limits, Outcome, Result, run
from tests.e2e.containments import Containment

EVERYTHING: dict[str, Any] = {
    "memory_mib": 120,
    "pids": 20,
    "cpus": 1,
    "cpu_seconds": 60,
    "file_size_mib": 4,
    "open_files": 50,
    "tmp_mib": 8,
}
NAMES = {"memoryMib", "pids", "cpus", "cpuSeconds", "fileSizeMib", "openFiles", "tmpMib"}
REFUSED_CALLS = (
    *("unshare-user", "unshare-mount", "clone-user", "clone3-user", "clone3", "io_uring_setup", "add_key"),
    *("keyctl", "request_key", "bpf", "userfaultfd", "perf_event_open", "mount", "umount", "remount", "bind"),
    *("pivot_root", "open_tree", "move_mount", "fsopen", "fsmount", "fspick", "mount_setattr", "kexec_load"),
    *("kexec_file_load", "init_module", "finit_module", "reboot", "swapon", "acct", "chroot", "sethostname"),
    *("syslog", "open_by_handle_at", "ptrace", "setuid-root", "pidfd_getfd", "process_vm_readv"),
    *("process_vm_writev", "capset", "ambient"),
)
SYSTEM_FILES = ("/etc/passwd", "/usr/new", "/new", "/etc/new", "/var/new", "/run/new", "/dev/new", "/sys/new")


def attempt(
    contained: Containment, probe: Path, *attempts: str, **policy: Any
) -> tuple[Result, dict[str, str]]:
    """Run the probe; answers what came of each attempt, too."""
    result = run(contained.policy(read_only=[probe.parent], **policy), [str(probe), *attempts])
    lines = result.stdout.decode().splitlines()
    return result, dict(line.rsplit(" ", 1) for line in lines if not line.startswith("made "))


def limit(result: Result, name: str) -> tuple[str, bool | None]:
    (found,) = (limit for limit in result.limits if limit.name == name)
    return found.mechanism, found.hit


def test_what_fits_is_not_in_the_way(contained: Containment, probe: Path) -> None:
    attempts = (
        "memory=20",
        "processes=10",
        "descriptors=30",
        "fill=/tmp/a,3",
        "fill=/dev/shm/a,3",
        "spin=10",
    )
    result, came = attempt(contained, probe, *attempts, limits=Limits(**EVERYTHING))
    assert set(came.values()) == {"ok"}, came
    assert len(came) == len({name.partition("=")[0] for name in attempts})
    assert {limit.name for limit in result.limits} == NAMES
    assert result.limits_hit == ()
    assert all(found.mechanism.endswith(contained.where) for found in result.limits)


def test_what_does_not_fit_is_refused(contained: Containment, probe: Path) -> None:
    limits = Limits(pids=20, open_files=50, tmp_mib=8)
    result, came = attempt(
        contained, probe, "processes=100", "descriptors=100", "fill=/tmp/a,12", limits=limits
    )
    assert came == {"processes": "EAGAIN", "descriptors": "EMFILE", "fill": "ENOSPC"}
    assert b"made 18\n" in result.stdout
    assert limit(result, "tmpMib")[0].startswith("tmpfs size")
    assert limit(result, "openFiles")[0].startswith("RLIMIT_NOFILE")


def test_there_is_no_other_place_to_fill(contained: Containment, probe: Path) -> None:
    """`tmp_mib` is for whatever a workload can write to without a grant."""
    places = "find / -xdev -type d -writable -not -path '/proc/*'; find /dev -type d -writable"
    found = run(contained.policy(), f"({places}) 2>/dev/null").stdout.decode().split()
    assert {"/dev/shm"} <= {*found}
    fills = "; ".join(f"{probe} fill={place}/a,12" for place in sorted({*found, "/tmp"}))
    policy = contained.policy(read_only=[probe.parent], limits=Limits(tmp_mib=8))
    came = set(run(policy, fills).stdout.decode().split())
    assert {"fill", "ENOSPC"} <= came <= {"fill", "ENOSPC", "EACCES"}, found


def test_memory_over_the_limit_kills(contained: Containment) -> None:
    result = run(contained.policy(limits=Limits(memory_mib=60)), "s=x; while :; do s=$s$s; done")
    assert (result.exit_code, result.outcome) == (137, Outcome.SIGNALLED)
    assert limit(result, "memoryMib")[1] is True
    assert result.limits_hit == ("memoryMib",)


def test_seconds_of_processor_time(contained: Containment) -> None:
    result = run(contained.policy(limits=Limits(cpu_seconds=1)), "while :; do :; done")
    assert (result.exit_code, result.outcome) == (128 + signal.SIGXCPU, Outcome.SIGNALLED)
    assert limit(result, "cpuSeconds") == (f"RLIMIT_CPU{contained.where}", True)


def test_size_of_files(contained: Containment) -> None:
    result = run(contained.policy(limits=Limits(file_size_mib=4)), "exec head -c 9M /dev/zero > /tmp/a")
    assert (result.exit_code, result.outcome) == (128 + signal.SIGXFSZ, Outcome.SIGNALLED)
    assert limit(result, "fileSizeMib") == (f"RLIMIT_FSIZE{contained.where}", True)


def test_limits_cannot_be_raised_again(contained: Containment) -> None:
    limits = Limits(open_files=50, file_size_mib=4, cpu_seconds=5)
    result = run(
        contained.policy(limits=limits), "for l in n f t; do (ulimit -H -$l 100000); ulimit -$l; done"
    )
    assert result.stdout == b"50\n8192\n5\n"


def test_system_calls_that_no_workload_gets(contained: Containment, probe: Path) -> None:
    _, came = attempt(contained, probe, *REFUSED_CALLS)
    assert came.keys() == set(REFUSED_CALLS)
    assert {name: how for name, how in came.items() if how not in ("EPERM", "ENOSYS", "EINVAL")} == {}
    assert came["clone3"] == "ENOSYS", "it makes C libraries use clone instead"


@pytest.mark.parametrize(
    ("profile", "came"),
    [("strict", {"ptrace": "EPERM"}), ("debug", {"ptrace": "ok"})],
)
def test_profiles_of_system_calls(
    contained: Containment, probe: Path, profile: str, came: dict[str, str]
) -> None:
    result, seen = attempt(contained, probe, *came, seccomp=profile)
    assert seen == came
    assert any(profile in mechanism for _, mechanism in result.enforced)


def test_a_set_uid_program_gains_nothing(contained: Containment, probe: Path) -> None:
    """One that is granted: its bit is not honoured, or is not there."""
    privileged = probe.parent / "privileged"
    privileged.write_bytes(probe.read_bytes())
    privileged.chmod(0o6755)
    policy = contained.policy(read_only=[probe.parent], cwd=probe.parent)
    try:
        result = run(policy, ["./privileged", "setuid-root", "capset"])
    finally:
        privileged.unlink()
    assert result.stdout.decode().split() in (
        ["setuid-root", "EPERM", "capset", "EPERM"],
        ["setuid-root", "EINVAL", "capset", "EPERM"],  # root is nobody there, in its user namespace
    )


def test_no_place_of_the_system_can_be_written_to(contained: Containment, probe: Path) -> None:
    for_all = [f"echo x > {path} && echo {path}" for path in SYSTEM_FILES]
    result = run(contained.policy(), "; ".join(for_all))
    assert result.stdout == b""


def test_no_network(contained: Containment) -> None:
    cards = run(contained.policy(), "tail -n +3 /proc/net/dev | cut -d: -f1").stdout.split()
    assert cards == [b"lo"] or contained.name == "vm", "a machine has a card that leads nowhere"
    assert run(contained.policy(), "tail -n +2 /proc/net/route").stdout == b""
