"""The launcher on the host: what it leaves behind before it becomes the sandbox program."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from pathlib import Path

import pytest

from backends.inside.protocol import Step
from tests.unit.launching import SANDBOX_UID, run_outside

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes identity: run as root")
IDENTITY = (SANDBOX_UID, SANDBOX_UID + 1)


def status_of(text: bytes) -> dict[str, str]:
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in text.decode().splitlines()}


def test_it_becomes_the_program_with_these_arguments_and_no_environment() -> None:
    assert run_outside("/usr/bin/printf", "%s|", "a b", "").stdout == b"a b||"
    assert run_outside("/usr/bin/env").stdout == b""


def test_signals_are_default_and_the_terminal_is_left_behind() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        run = run_outside("/bin/sh", "-c", "cat /proc/self/status; cut -d' ' -f6 /proc/$$/stat; echo $$")
    finally:
        signal.signal(signal.SIGUSR1, before)
    *_, session, pid = run.stdout.split()
    assert session == pid
    assert status_of(run.stdout)["SigIgn"] == "0" * 16
    assert status_of(run.stdout)["SigBlk"] == "0" * 16


def test_only_named_descriptors_survive() -> None:
    kept, dropped = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 40) for fd in (0, 0))
    try:
        script = "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done"
        run = run_outside("/bin/bash", "-c", script, keep=(kept,), pass_fds=(kept, dropped))
    finally:
        os.close(kept)
        os.close(dropped)
    numbers = {int(number) for number in run.stdout.split()} - {3, 255}  # bash's own
    assert kept in numbers
    assert dropped not in numbers
    assert len(numbers) == 5  # three streams, the kept one, the control socket


def test_a_kept_descriptor_that_is_not_open_is_an_error() -> None:
    failure = run_outside("/bin/true", keep=(700,)).failure
    assert (failure.step, failure.errno, failure.index) == (Step.DESCRIPTORS, errno.EBADF, 700)


def test_it_offers_itself_to_the_out_of_memory_killer_first() -> None:
    assert run_outside("/bin/cat", "/proc/self/oom_score_adj").stdout == b"1000\n"


def test_another_parent_than_recorded_is_refused() -> None:
    run = run_outside("/bin/true", parent_pid=1)
    assert (run.failure.step, run.exit_code) == (Step.PARENT_GONE, 125)


def test_a_missing_program_is_reported() -> None:
    run = run_outside("/no/such/program")
    assert (run.failure.step, run.failure.errno, run.exit_code) == (Step.EXEC_SANDBOX, errno.ENOENT, 125)


@needs_root
def test_the_identity_is_dropped_for_good() -> None:
    with_groups = ("setpriv", "--groups=4,24", "--inh-caps=+net_raw", "--ambient-caps=+net_raw", "--")
    run = run_outside("/bin/cat", "/proc/self/status", wrapper=with_groups, identity=IDENTITY)
    status = status_of(run.stdout)
    assert status["Uid"].split() == [str(IDENTITY[0])] * 4
    assert status["Gid"].split() == [str(IDENTITY[1])] * 4
    assert status["Groups"] == ""
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert status[capabilities] == "0" * 16


@needs_root
@pytest.mark.parametrize("identity", [(0, IDENTITY[1]), (IDENTITY[0], 0), (2**32 - 1, IDENTITY[1])])
def test_root_and_no_id_at_all_are_no_identities(identity: tuple[int, int]) -> None:
    assert run_outside("/bin/true", identity=identity).failure.step == Step.IDENTITY


@needs_root
def test_control_groups_are_joined_before_the_identity_is_dropped() -> None:
    roots = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/pids")]
    [root, *_] = [root for root in roots if (root / "cgroup.procs").exists()]
    group = root / f"launcher-test-{os.getpid()}"
    group.mkdir()
    try:
        procs = os.open(group / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        run = run_outside(
            "/bin/cat", "/proc/self/cgroup", cgroups=(procs,), pass_fds=(procs,), identity=IDENTITY
        )
        os.close(procs)
    finally:
        group.rmdir()
    assert f"/{group.name}\n".encode() in run.stdout


def test_a_control_group_that_refuses_is_named_by_its_position() -> None:
    read_end, write_end = os.pipe()
    run = run_outside("/bin/true", cgroups=(write_end, read_end), pass_fds=(read_end, write_end))
    assert (run.failure.step, run.failure.index) == (Step.CGROUP, 1)
    assert os.read(read_end, 10) == b"0"
    os.close(read_end)
    os.close(write_end)
