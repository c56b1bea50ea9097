"""The tiny guest that proves an accelerator, and what is made of its answer or silence."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backends.qemu import tiny_guest
from backends.qemu.accelerator import DEADLINE_S, Verdict, command, find_qemu, judge, try_accelerator

QEMU = find_qemu()
needs_qemu = pytest.mark.skipif(QEMU is None, reason="needs QEMU: apt-get install qemu-system-x86")
IN_VAIN_S = 20


def judged(status: int | None, said: str = "") -> Verdict:
    return judge("kvm", status, said, took_ms=5, deadline_s=DEADLINE_S)


@needs_qemu
@pytest.mark.backend("microvm")
@pytest.mark.parametrize("machine", ["microvm", "q35", "pc"])
def test_the_tiny_guest_boots_by_emulation(machine: str) -> None:
    assert QEMU is not None
    verdict = try_accelerator(QEMU, "tcg", machine=machine, deadline_s=IN_VAIN_S)
    assert (verdict.works, verdict.why) == (True, "")
    assert verdict.took_ms > 0


@needs_qemu
@pytest.mark.backend("microvm")
def test_kvm_works_or_is_told_why_not() -> None:
    assert QEMU is not None
    verdict = try_accelerator(QEMU, "kvm", machine="microvm")
    assert verdict.works is not bool(verdict.why)
    assert Path("/dev/kvm").exists() or not verdict.works


@needs_qemu
def test_an_accelerator_that_qemu_does_not_know_is_told_in_its_words() -> None:
    assert QEMU is not None
    assert "invalid accelerator" in try_accelerator(QEMU, "nothing", machine="microvm").why


def test_the_answer_is_the_result_of_the_whole_computation() -> None:
    """As the guest computes it: from ROUNDS down to 1, in 64 bits, and one interrupt seen."""
    result = 0
    for count in range(tiny_guest.ROUNDS, 0, -1):
        result = (result * 6364136223846793005 + count) & (2**64 - 1)
    assert (((result >> 57) + 1) << 1 | 1) & 0xFF == tiny_guest.ANSWER


@pytest.mark.parametrize("status", [0, 1, 124, 125, 126, 127, 128 + signal.SIGKILL, 128 + signal.SIGABRT])
def test_the_answer_is_no_status_that_other_endings_have(status: int) -> None:
    assert status != tiny_guest.ANSWER


@pytest.mark.parametrize(
    ("status", "said", "why"),
    [
        (None, "", "the guest gave no answer within 5 s"),
        (0, "", "the guest died: its virtual CPU was reset"),
        (tiny_guest.ANSWER + 2, "", "the guest answered 109 instead of 107"),
        (
            1,
            "qemu: Could not access KVM kernel module: No such file or directory\nqemu: failed to initialize",
            "",
        ),
        (-signal.SIGABRT, "", "QEMU was ended by SIGABRT"),
    ],
)
def test_each_failure_is_told_apart(status: int | None, said: str, why: str) -> None:
    verdict = judged(status, said)
    assert not verdict.works
    complaint = "Could not access KVM kernel module: No such file or directory"
    assert verdict.why == (why or f"QEMU ended with 1: {complaint}")


def test_warnings_of_qemu_are_no_cause() -> None:
    said = "qemu: warning: host doesn't support requested feature\nqemu: error: failed to set MSR 0x10a\n"
    assert judged(-signal.SIGABRT, said).why == "QEMU was ended by SIGABRT: error: failed to set MSR 0x10a"
    assert judged(tiny_guest.ANSWER, "qemu: warning: slow\n") == Verdict("kvm", True, "", 5)


def test_long_complaints_are_cut() -> None:
    assert len(judged(1, "qemu: " + "x" * 10_000).why) < 400


def test_nothing_but_the_accelerator_and_the_machine_differs_between_attempts() -> None:
    kvm, tcg = (command("/q", name, "/g", "q35") for name in ("kvm", "tcg"))
    assert [(a, b) for a, b in zip(kvm, tcg, strict=True) if a != b] == [("kvm", "tcg")]
    assert "-nodefaults" in kvm and "-no-user-config" in kvm and "-no-reboot" in kvm


@pytest.fixture
def stuck_qemu(tmp_path: Path) -> Path:
    """A program that notes its process ids, has a child, and never ends."""
    program = tmp_path / "qemu"
    program.write_text(
        f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nsleep 600 &\necho $! >> {tmp_path}/pids\nwait\n"
    )
    program.chmod(0o755)
    return program


def pids_of(program: Path) -> list[int]:
    """Those that a stuck program has noted, once it has noted both."""
    deadline = time.monotonic() + IN_VAIN_S
    noted = program.with_name("pids")
    while time.monotonic() < deadline:
        if noted.exists() and len(lines := noted.read_text().split()) == 2:
            return [int(line) for line in lines]
        time.sleep(0.02)
    pytest.fail("the program was not started")


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + IN_VAIN_S
    while not all(is_gone(pid) for pid in pids):
        assert time.monotonic() < deadline, "something was left running"
        time.sleep(0.02)


def descriptors() -> set[str]:
    """Those that this process has open, and what they are."""
    return {str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


def test_a_guest_that_is_stuck_is_ended_with_all_its_processes(stuck_qemu: Path) -> None:
    before = descriptors()
    verdict = try_accelerator(str(stuck_qemu), "kvm", machine="q35", deadline_s=1.5)
    assert verdict.why == "the guest gave no answer within 1.5 s"
    wait_until_gone(pids_of(stuck_qemu))
    assert descriptors() == before


def test_a_guest_that_is_stuck_outlives_its_killed_prober_by_the_deadline_at_most(
    stuck_qemu: Path, checkout: Path
) -> None:
    source = (
        "from backends.qemu.accelerator import *;"
        f" try_accelerator({str(stuck_qemu)!r}, 'kvm', machine='q35', deadline_s=1)"
    )
    prober = subprocess.Popen([sys.executable, "-c", source], cwd=checkout)
    pids = pids_of(stuck_qemu)
    prober.kill()
    prober.wait()
    wait_until_gone(pids)


def test_a_crash_leaves_no_core_file(tmp_path: Path) -> None:
    program = tmp_path / "qemu"
    program.write_text(f"#!/bin/sh\nulimit -c > {tmp_path}/limit\nkill -ABRT $$\n")
    program.chmod(0o755)
    assert try_accelerator(str(program), "kvm", machine="q35").why == "QEMU was ended by SIGABRT"
    assert (tmp_path / "limit").read_text() == "0\n"
