"""The seccomp profiles on the running kernel: every call made for real, under the filter and without it."""

from __future__ import annotations

import errno
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from backends.linux import seccomp
from backends.linux.seccomp_profiles import ABSENT, ALLOWED, REFUSED
from backends.linux.syscalls_x86_64 import NUMBERS
from tests.unit.launching import run_inside

Probe = Callable[[str | None, Iterable[str]], list[str]]
"""(profile, calls) → what came of each; without a profile, unfiltered."""

EPERM, ENOSYS = f"errno {errno.EPERM}", f"errno {errno.ENOSYS}"
EFAULT, EBADF = f"errno {errno.EFAULT}", f"errno {errno.EBADF}"
KILLED = f"signal {int(signal.SIGSYS)}"
HIGH = 1 << 32
NEW_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)

# Calls that end, stop or leave something behind when made at random.
NOT_TO_TRY = {"exit", "exit_group", "fork", "vfork", "rt_sigreturn", "pause", "sync", "msgget", "alarm"}


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Probe:
    folder = tmp_path_factory.mktemp("probe")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    program = folder / "probe"
    source = checkout / "tests/unit/syscall_probe.c"
    subprocess.run(
        ["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, source], check=True
    )

    def make_calls(profile: str | None, calls: Iterable[str]) -> list[str]:
        filtered = seccomp.program(profile) if profile else b""
        run = run_inside(str(program), *calls, seccomp=filtered)
        assert (run.exit_code, run.stderr) == (0, b"")
        return run.stdout.decode().splitlines()

    return make_calls


def call(name: str, *arguments: int) -> str:
    return f"64:{NUMBERS[name]}:{','.join(str(argument) for argument in arguments)}"


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_refused_calls_answer_eperm(probe: Probe, profile: str) -> None:
    names = REFUSED[profile].split()
    answers = dict(zip(names, probe(profile, map(call, names)), strict=True))
    assert answers == dict.fromkeys(names, EPERM)


def test_the_kernel_itself_would_not_refuse_these(probe: Probe) -> None:
    """So that the test above can fail: without the filter they get further than EPERM."""
    reachable = (
        "io_uring_setup", "add_key", "request_key", "keyctl", "kcmp", "ptrace", "process_vm_readv",
        "pidfd_getfd", "process_vm_writev", "userfaultfd", "perf_event_open", "open_tree", "setns",
        "modify_ldt", "move_pages",
    )  # fmt: skip
    assert EPERM not in probe(None, map(call, reachable))


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_allowed_calls_answer_as_without_the_filter(probe: Probe, profile: str) -> None:
    names = [name for name in ALLOWED[profile].split() if name not in NOT_TO_TRY]
    calls = list(map(call, names))
    under_filter = dict(zip(names, probe(profile, calls), strict=True))
    assert under_filter == dict(zip(names, probe(None, calls), strict=True))


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_unknown_calls_and_those_libc_does_without_answer_enosys(probe: Probe, profile: str) -> None:
    calls = [*map(call, ABSENT.split()), "64:400", "64:470", "64:999", "64:0x3fffffff", "64:-1"]
    assert set(probe(profile, calls)) == {ENOSYS}
    assert ENOSYS not in probe(None, map(call, ABSENT.split()))


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_other_entries_into_the_kernel_kill(probe: Probe, profile: str) -> None:
    getpid_of_i386 = 20
    calls = [f"x32:{NUMBERS['getpid']}", "x32:512", f"32:{getpid_of_i386}"]
    assert probe(profile, calls) == [KILLED] * 3
    assert KILLED not in probe(None, calls)


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_no_new_namespaces(probe: Probe, profile: str) -> None:
    child = int(signal.SIGCHLD)
    calls = [call("clone", flag | child, 0, 0, 0, 0) for flag in NEW_NAMESPACES]
    calls += [call("clone", HIGH | 0x10000000 | child, 0, 0, 0, 0)]
    calls += [call("unshare", flag) for flag in (*NEW_NAMESPACES, 0x80, 0x10000000 | 0x400)]
    assert set(probe(profile, calls)) == {EPERM}
    clone_files, clone_fs = 0x400, 0x200
    assert probe(profile, [call("unshare", clone_files), call("unshare", clone_fs)]) == ["0", "0"]
    assert probe(None, [call("unshare", 0x10000000)]) == ["0"]


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_a_terminal_cannot_be_typed_into_also_with_high_bits_set(probe: Probe, profile: str) -> None:
    forbidden = [
        call("ioctl", 0xFFFFFFFF, high | number) for high in (0, HIGH) for number in (0x5412, 0x541C, 0x5423)
    ]
    assert set(probe(profile, forbidden)) == {EPERM}
    assert set(probe(None, forbidden)) == {EBADF}
    tcgets, tiocgwinsz = 0x5401, 0x5413
    allowed = [call("ioctl", 0xFFFFFFFF, number) for number in (tcgets, tiocgwinsz, 0x5411)]
    assert set(probe(profile, allowed)) == {EBADF}


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_nothing_becomes_setuid_or_setgid(probe: Probe, profile: str) -> None:
    at_cwd, bad, create, unnamed = -100, -1, 0o100, 0o20200002

    def calls(mode: int) -> list[str]:
        return [
            call("chmod", bad, mode),
            call("fchmodat", at_cwd, bad, mode),
            call("fchmodat2", at_cwd, bad, mode, 0),
            call("creat", bad, mode),
            call("open", bad, create, mode),
            call("openat", at_cwd, bad, create, mode),
            call("openat", at_cwd, bad, unnamed, mode),
            call("mkdir", bad, mode),
            call("mkdirat", at_cwd, bad, mode),
            call("mknod", bad, 0o100000 | mode, 0),
            call("mknodat", at_cwd, bad, 0o100000 | mode, 0),
        ]

    for mode in (0o4755, 0o2755, 0o6000, HIGH | 0o4755):
        assert set(probe(profile, calls(mode))) == {EPERM}
        assert probe(profile, [call("fchmod", bad, mode)]) == [EPERM]
    assert set(probe(profile, calls(0o1777))) == {EFAULT}
    assert probe(profile, [call("fchmod", bad, 0o755)]) == [EBADF]


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_modes_are_ignored_where_no_file_is_made(probe: Probe, profile: str) -> None:
    assert (
        probe(profile, [call("open", -1, 0, 0o6777), call("openat", -100, -1, 0o2, 0o6777)]) == [EFAULT] * 2
    )


def test_personalities(probe: Probe) -> None:
    harmless = [call("personality", value) for value in (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)]
    not_random, read_implies_exec = call("personality", 0x40000), call("personality", 0x400000)
    assert probe("default", harmless) == probe("debug", harmless) == ["0"] * 5
    assert probe("default", [not_random, read_implies_exec]) == [EPERM, EPERM]
    assert probe("debug", [not_random, read_implies_exec]) == ["0", EPERM]
    assert set(probe("strict", [*harmless, not_random])) == {EPERM}


INTERNET = [
    (2, 1, 6),
    (2, 2, 17),
    (2, 1 | 0o2004000, 0),
    (10, 1, 0),
    (10, 2, 17),
    (2, 1, 262),
    (16, 3, 0),
    (16, 2, 0),
]
EXOTIC = {
    (40, 1, 0): errno.EAFNOSUPPORT,  # AF_VSOCK
    (38, 5, 0): errno.EAFNOSUPPORT,  # AF_ALG
    (17, 3, 0x300): errno.EAFNOSUPPORT,  # AF_PACKET
    (15, 3, 2): errno.EAFNOSUPPORT,  # AF_KEY
    (31, 3, 0): errno.EAFNOSUPPORT,  # AF_BLUETOOTH
    (44, 3, 0): errno.EAFNOSUPPORT,  # AF_XDP
    (HIGH | 17, 3, 0x300): errno.EAFNOSUPPORT,
    (2, 5, 0): errno.ESOCKTNOSUPPORT,  # SOCK_SEQPACKET
    (2, 10, 0x300): errno.ESOCKTNOSUPPORT,  # SOCK_PACKET, the old spelling of AF_PACKET
    (2, 1, 132): errno.EPROTONOSUPPORT,  # SCTP
    (10, 1, HIGH | 132): errno.EPROTONOSUPPORT,
    (16, 3, 9): errno.EPROTONOSUPPORT,  # NETLINK_AUDIT
    (16, 3, 12): errno.EPROTONOSUPPORT,  # NETLINK_NETFILTER
}


@pytest.mark.parametrize("profile", ["default", "debug"])
def test_sockets_are_unix_internet_and_route_netlink(probe: Probe, profile: str) -> None:
    allowed = [call("socket", *arguments) for arguments in [(1, 1, 0), (1, 5, 0), *INTERNET]]
    assert probe(profile, allowed) == probe(None, allowed)
    assert set(probe(profile, allowed[:2])) == {"0"}
    refused = [call("socket", *arguments) for arguments in EXOTIC]
    assert probe(profile, refused) == [f"errno {error}" for error in EXOTIC.values()]


def test_strict_has_unix_sockets_only(probe: Probe) -> None:
    assert probe("strict", [call("socket", 1, 1, 0), call("socket", 1, 5, 0)]) == ["0", "0"]
    others = [call("socket", *arguments) for arguments in [*INTERNET, *EXOTIC]]
    assert set(probe("strict", others)) == {f"errno {errno.EAFNOSUPPORT}"}


@pytest.mark.parametrize("profile", seccomp.PROFILES)
def test_socket_pairs_are_unix(probe: Probe, profile: str) -> None:
    tipc, unix = call("socketpair", 30, 1, 0, -1), call("socketpair", 1, 1, 0, -1)
    assert probe(profile, [tipc, unix]) == [f"errno {errno.EAFNOSUPPORT}", EFAULT]


def test_debug_allows_what_debuggers_need_and_nothing_that_default_refuses_besides(probe: Probe) -> None:
    only_debug = set(ALLOWED["debug"].split()) - set(ALLOWED["default"].split())
    assert only_debug == set(REFUSED["default"].split()) - set(REFUSED["debug"].split())
    assert EPERM not in probe("debug", map(call, only_debug))
    assert set(probe("default", map(call, only_debug))) == {EPERM}
