"""System calls that a sandbox has no use for (upstream-gaps.md P1)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.security.callers import Caller

REFUSED = ("EPERM", "ENOSYS")

# `bare` bubblewrap as real root is the control: what the kernel refuses to plain users anyway proves nothing.
CALLS = (
    *("io_uring_setup", "add_key", "keyctl", "request_key", "bpf", "userfaultfd", "perf_event_open"),
    *(
        "mount",
        "umount",
        "pivot_root",
        "open_tree",
        "move_mount",
        "fsopen",
        "fsmount",
        "fspick",
        "mount_setattr",
    ),
    *("process_vm_readv", "process_vm_writev", "ptrace", "pidfd_getfd", "open_by_handle_at"),
    *("reboot", "swapon", "acct", "chroot", "sethostname", "syslog", "unshare-mount", "setns"),
)
CALLS_OF_SOME_KERNELS = ("kexec_load", "kexec_file_load", "init_module", "finit_module")


def _control(root: Caller, probe: Path, *names: str) -> dict[str, str]:
    return root.bare(
        [probe, *names], "--unshare-uts", "--tmpfs", "/tmp", "--ro-bind", str(probe.parent), str(probe.parent)
    ).results


@pytest.mark.parametrize("profile", ["default", "strict"])
def test_dangerous_calls_are_refused(caller: Caller, root: Caller, probe: Path, profile: str) -> None:
    reached = _control(root, probe, *CALLS)
    assert {name for name, result in reached.items() if result in REFUSED} == set()
    refused = caller.run([probe, *CALLS], read_only=[probe.parent], seccomp=profile).results
    assert {name: result for name, result in refused.items() if result not in REFUSED} == {}
    assert set(refused) == set(CALLS)


def test_calls_that_some_kernels_lack_are_refused(caller: Caller, probe: Path) -> None:
    """This kernel may answer ENOSYS itself; then the filter's own tests are what proves it."""
    refused = caller.run([probe, *CALLS_OF_SOME_KERNELS], read_only=[probe.parent]).results
    assert {name: result for name, result in refused.items() if result not in REFUSED} == {}


def test_the_debug_profile_lets_a_debugger_work_and_nothing_else(caller: Caller, probe: Path) -> None:
    allowed = ("ptrace", "process_vm_readv", "process_vm_writev")
    results = caller.run([probe, *CALLS], read_only=[probe.parent], seccomp="debug").results
    assert {name for name, result in results.items() if result == "ok"} <= {
        *allowed,
        "perf_event_open",
        "pidfd_getfd",
    }
    assert results["ptrace"] == results["process_vm_readv"] == "ok"


def test_calls_of_another_architecture(caller: Caller, probe: Path) -> None:
    """The same numbers mean other calls there: a filter that looks at numbers alone is passed."""
    control = caller.upstream([probe, "int80"], read_only=[probe.parent]).results["int80"]
    if control != "ok":
        pytest.skip(f"this kernel runs no 32-bit calls ({control})")
    told = caller.run([probe, "int80", "x32"], read_only=[probe.parent])
    assert told.results["int80"] != "ok", told
    assert told.results["x32"] != "ok", told


def test_no_filter_is_the_control(caller: Caller) -> None:
    mode = "grep ^Seccomp: /proc/self/status"
    assert caller.upstream(mode).stdout == "Seccomp:\t0\n"
    assert caller.run(mode).stdout == "Seccomp:\t2\n"
