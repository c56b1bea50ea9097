"""Attacks on what only containers have: LXC's process and socket, a stage, an image, a root of their own."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.linux.mountinfo import read_mountinfo
from backends.linux.subordinate_ids import ranges_of
from tests.conftest import User
from tests.images import image
from tests.security.callers import BY_LXC, Caller, Told
from tests.security.host import Process, processes, wait_for_process, wait_until, with_word

pytestmark = pytest.mark.parametrize("caller", BY_LXC, indirect=True)

STAGE = "/run/mxc-ops/stage"
# What autodev makes of the host's devices, and a private folder; names of descriptors.
DEVICES = {"full", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"}
DESCRIPTORS = {"fd", "stderr", "stdin", "stdout"}
NOT_REACHED = ("ECONNREFUSED", "EPERM", "EACCES", "ENOENT")

STRANGER = 4321

STOP = """
import os, socket, struct, sys
lxc = socket.socket(socket.AF_UNIX)
lxc.settimeout(10)
lxc.connect("\\0" + sys.argv[1])
whom = struct.pack("iii", os.getpid(), os.getuid(), os.getgid())
lxc.sendmsg([struct.pack("iiQ", 2, 0, 0)], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, whom)])
print(lxc.recv(16).hex())
"""
"""Tells LXC to kill a container (its command 2)."""


def lxc_around(pid: int) -> Process:
    """The lxc-start that a process inside descends from."""
    known = {process.pid: process for process in processes()}
    while "--lxcpath" not in known[pid].words:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return known[pid]


def socket_of(lxc: Process) -> str:
    """The abstract one that it takes commands at, as every user of the host can read it."""
    name = f"{STAGE}/{lxc.words[lxc.words.index('--name') + 1]}/command"
    assert f" @{name}\n" in Path("/proc/net/unix").read_text()
    return name


def as_stranger(
    argv: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run something as a user of the host that nobody knows."""
    if os.geteuid() != 0:
        pytest.skip("being somebody else takes root")
    ids = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    return subprocess.run(
        [*ids, *argv], env=environment, cwd="/", capture_output=True, text=True, check=False
    )


class Running:
    """A container that naps, and what the host has of it."""

    def __init__(self, caller: Caller, nap: str, **policy: Any) -> None:
        self.pending = caller.begin(f"sleep {nap}; echo unharmed", timeout_s=20, **policy)
        self.lxc = lxc_around(wait_for_process(nap).pid)
        self.socket = socket_of(self.lxc)

    def told(self) -> Told:
        return self.pending.told()


def test_the_socket_that_lxc_is_commanded_by(caller: Caller, probe: Path) -> None:
    neighbour = Running(caller, "1.015625")
    attack = [probe, f"connect=@{neighbour.socket}", f"connect={STAGE}/{neighbour.socket}"]
    assert "connect ok" in caller.program(attack).stdout
    told = caller.run(attack, read_only=[probe.parent])
    assert {word for line in told.stdout.splitlines() for word in line.split()[1:]} <= {*NOT_REACHED}
    assert neighbour.told().stdout == "unharmed\n"


def test_ones_own_socket_of_lxc(caller: Caller, place: Path, probe: Path) -> None:
    wait = f"until read name < {place}/name; do sleep 0.02; done 2> /dev/null; {probe} connect=@$name"
    attacker = caller.begin(wait, read_only=[place, probe.parent], timeout_s=20)
    inside = wait_for_process(wait)
    (place / "new").write_text(f"{socket_of(lxc_around(inside.pid))}\n")
    (place / "new").rename(place / "name")
    assert attacker.told().stdout.strip() in {f"connect {error}" for error in NOT_REACHED}


def test_another_user_of_the_host_commands_no_container(caller: Caller) -> None:
    running = Running(caller, "2.015625")
    refused = as_stranger(["/usr/bin/python3", "-c", STOP, running.socket])
    assert refused.stdout.startswith("ffffffff"), refused
    assert with_word("2.015625")
    own_word = caller.program([caller.python, "-c", STOP, running.socket])
    told = running.told()
    if caller.uid == 0:
        assert (told.exit_code, told.stdout) == (137, ""), "root's word counts"
    else:
        assert own_word.stdout.startswith("ffffffff"), "LXC is not run as the caller"
        assert told.stdout == "unharmed\n"


def test_the_process_that_started_the_container(caller: Caller, probe: Path) -> None:
    neighbour = Running(caller, "1.03125")
    kinds = ("kill", "trace", "read-memory", "prlimit", "setpriority")
    attack = [probe, *(f"{kind}={neighbour.lxc.pid}" for kind in kinds)]
    assert set(caller.program(attack).results.values()) == {"ok"}
    told = caller.run(attack, read_only=[probe.parent])
    assert len(told.results) == len(kinds)
    assert "ok" not in told.results.values()
    look = f"ls /proc/{neighbour.lxc.pid}; ls -d /proc/[0-9]*; cat /proc/[0-9]*/cmdline"
    seen = caller.run(look).stdout
    assert "/proc/1\n" in seen
    assert "lxc-start" not in seen
    assert neighbour.told().stdout == "unharmed\n"


def test_what_the_host_shows_of_a_container_is_a_name_without_meaning(caller: Caller, place: Path) -> None:
    running = Running(
        caller, "1.046875", read_only=[place], env={"TOKEN": "value-19c4", "PATH": "/usr/bin:/bin"}
    )
    words = " ".join(running.lxc.words)
    environment = Path(f"/proc/{running.lxc.pid}/environ").read_text()
    assert running.told().stdout == "unharmed\n"
    assert environment == ""
    for text in (str(place), "value-19c4", "TOKEN", "unharmed", "base"):
        assert text not in words


def test_two_users_of_the_hosts_are_all_that_a_container_has(caller: Caller) -> None:
    script = "cat /proc/self/uid_map; cat /proc/self/gid_map; id -u; id -g"
    first, second = (caller.run(script).stdout.split() for _ in range(2))
    for told in (first, second):
        assert [told[0], told[2], told[3], told[5]] == ["0", "1", "1000", "1"]
        assert told[:6] == told[6:12], "groups are as users are"
        assert told[12:] == ["1000", "1000"]
        if caller.uid == 0:
            assert int(told[1]) >= 1_000_000_000 and int(told[4]) >= 1_000_000_000
            assert told[1] != told[4]
        else:
            assert told[1:5:3] == ["0", "1000"], "LXC is in a user namespace already"


def test_in_a_users_container_only_the_user_is_somebody_of_the_host(caller: Caller, place: Path) -> None:
    if caller.uid == 0:
        pytest.skip("root's containers have nobody's ids")
    running = Running(caller, "1.0546875")
    nap = wait_for_process("1.0546875")
    granted = ranges_of((pwd.getpwuid(caller.uid).pw_name,), 1)
    assert granted is not None
    status = {pid: Path(f"/proc/{pid}/status").read_text() for pid in (nap.pid, running.lxc.pid)}
    ids = {pid: re.findall(r"^[UG]id:\t(.*)$", text, re.MULTILINE) for pid, text in status.items()}
    assert ids[nap.pid] == ["\t".join([str(number)] * 4) for number in (caller.uid, caller.gid)]
    assert ids[running.lxc.pid] == ["\t".join([str(number)] * 4) for number in granted]
    assert running.told().stdout == "unharmed\n"
    caller.run(f"touch {place}/workload", read_write=[place])
    assert (place / "workload").stat().st_uid == caller.uid


def test_becoming_the_containers_root(caller: Caller, probe: Path) -> None:
    told = caller.run([probe, "setuid-root", "capset", "ambient", "chroot"], read_only=[probe.parent])
    assert told.results.keys() == {"setuid-root", "capset", "ambient", "chroot"}
    assert "ok" not in told.results.values()
    owners = caller.run(
        "stat -c %u /etc/passwd /usr/bin/su / /dev /tmp /proc/1; echo x >> /etc/passwd; su -c id"
    )
    assert owners.stdout.split() == ["0", "0", "0", "0", "0", "1000"]
    assert "Permission denied" in owners.stderr


def test_what_is_the_containers_roots_stays_as_it_is(caller: Caller, probe: Path) -> None:
    names = (
        "/etc/new",
        "/usr/bin/new",
        "/new",
        "/var/lib/new",
        "/run/new",
        "/dev/new",
        "/root/new",
        "/opt/new",
    )
    writes = (
        "/etc/hosts",
        "/usr/bin/perl",
        "/etc/ld.so.cache",
        "/dev/.lxc-boot-id",
        "/proc/sys/kernel/hostname",
    )
    attack = [probe, *(f"create={name}" for name in names), *(f"open-write={name}" for name in writes)]
    told = caller.run(attack, read_only=[probe.parent])
    assert told.stdout.count(" E") == len(names) + len(writes), told


def test_nothing_is_left_of_a_run_for_the_next(caller: Caller) -> None:
    before = Path(image("base").rootfs).stat()
    write = "for d in /tmp /var/tmp /dev/shm; do echo mark > $d/left; done; cat /tmp/left"
    assert caller.run(write).stdout == "mark\n"
    assert caller.run("cat /tmp/left /var/tmp/left /dev/shm/left").stdout == ""
    after = Path(image("base").rootfs).stat()
    assert (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size)


@pytest.mark.parametrize(
    "path",
    [
        *(STAGE, f"{STAGE}/image", f"{STAGE}/memory/upper", "/run/mxc-ops", "/run/lxc", "/var/lib/mxc-ops"),
        *("/var/lib/lxc", "/etc/mxc-ops", "/usr/local/lib/mxc-ops", "/usr/lib/x86_64-linux-gnu/lxc"),
    ],
)
def test_the_hosts_side_of_a_container_is_not_there(caller: Caller, path: str) -> None:
    prefixes = ("", "/proc/self/root", "/proc/1/root", "/proc/1/cwd", "/proc/self/cwd/..", "/..")
    told = caller.run("; ".join(f"ls -d {prefix}{path}" for prefix in prefixes))
    assert told.stdout == ""


def test_nothing_of_the_host_is_mounted_but_devices_and_what_was_granted(caller: Caller, place: Path) -> None:
    table = caller.run("cat /proc/self/mountinfo", read_only=[place]).stdout
    mounts = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in table.splitlines()}
    assert [line.split()[5].split(",")[0] for line in table.splitlines() if line.split()[4] == "/sys"] == [
        "ro"
    ]
    granted = next(
        mount.filesystem
        for mount in reversed(read_mountinfo())
        if str(place).startswith(mount.point.rstrip("/"))
    )
    assert mounts.pop(str(place)) == granted
    devices = {point for point, kind in mounts.items() if kind == "devtmpfs"}
    assert devices <= {f"/dev/{name}" for name in DEVICES}
    assert {kind for point, kind in mounts.items() if point not in devices} == {
        *("overlay", "proc", "sysfs", "tmpfs", "devpts"),
    }


def test_no_device_of_the_host_is_there_but_harmless_ones(caller: Caller, probe: Path) -> None:
    told = caller.run("ls -A /dev; find / -xdev -type b; find / -type b 2>/dev/null")
    assert set(told.stdout.split()) <= {*DEVICES, *DESCRIPTORS, ".lxc-boot-id"}
    names = ("kmsg", "mem", "loop-control", "loop0", "kvm", "fuse", "net/tun", "console", "tty0", "vda")
    opened = caller.run([probe, *(f"open-read=/dev/{name}" for name in names)], read_only=[probe.parent])
    assert opened.stdout.count("open-read ENOENT") == len(names), opened
    made = caller.run(
        [probe, "mknod=/tmp/a", "mknod=/var/tmp/a", "mknod=/dev/shm/a"], read_only=[probe.parent]
    )
    assert made.stdout.count("mknod E") == 3


def test_a_terminal_is_the_only_further_device(caller: Caller) -> None:
    told = caller.run("ls /dev; tty", ends=False, tty=True)
    *names, terminal = told.stdout.split()
    assert set(names) <= {*DEVICES, *DESCRIPTORS, "console"}
    assert terminal == "/dev/console"


@pytest.mark.parametrize("limits", [{}, {"memory_mib": 100, "pids": 20}])
def test_control_groups_are_neither_named_nor_in_reach(
    caller: Caller, probe: Path, limits: dict[str, int]
) -> None:
    told = caller.run(
        "cut -d: -f3 /proc/self/cgroup; cut -d: -f3 /proc/1/cgroup; ls -A /sys/fs/cgroup", limits=limits
    )
    assert set(told.stdout.split()) == {"/"}
    mounts = "for kind in cgroup cgroup2; do mount -t $kind none /tmp; done"
    attack = f"{mounts}; ls -A /tmp; find / -name release_agent 2> /dev/null"
    assert caller.run(attack, limits=limits).stdout == ""


def test_what_the_host_mounts_later_does_not_reach_into_a_grant(caller: Caller, place: Path) -> None:
    """A container must not see what was not there when its grants were checked."""
    secret, target = place / "secret", place / "shown" / "target"
    target.mkdir(parents=True)
    secret.mkdir()
    (secret / "file").write_text("mounted later\n")
    wait = f"until [ -e {place}/shown/go ]; do sleep 0.02; done; ls -A {target}; cat {target}/file"
    running = caller.begin(wait, read_only=[place / "shown"], timeout_s=20)
    wait_until(lambda: bool(with_word("sleep")), "the container did not start")
    time.sleep(0.2)
    caller.bind(secret, target)
    try:
        (place / "shown" / "go").touch()
        told = running.told()
    finally:
        caller.unbind(target)
    assert "mounted later" not in told.stdout


def test_names_of_a_policy_are_no_lines_of_the_config(caller: Caller, place: Path) -> None:
    made = place / "made"
    lines = (
        *(f"lxc.hook.pre-start = /usr/bin/touch {made}", f"lxc.hook.start-host = /usr/bin/touch {made}"),
        *("lxc.include = /etc/passwd", "lxc.rootfs.path = dir:/", "lxc.mount.entry = / mnt none bind 0 0"),
    )
    folders: list[Path] = []
    for index, line in enumerate(lines):
        folder = place / f"{index} \t\\040\\\n{line}\n#=\"'"
        folder.mkdir(parents=True)
        (folder / "file").write_text(f"file {index}\n")
        (folder / "no").write_text("denied\n")
        folders.append(folder)
    denied = [folder / "no" for folder in folders]
    read = f"for name in no file; do find {place} -name $name -exec cat {{}} + ; done | sort; ls -A /mnt"
    told = caller.run(read, read_only=folders, denied=denied)
    assert told.stdout.splitlines() == [f"file {index}" for index in range(len(lines))]
    assert not made.exists()


def test_who_has_no_ids_granted_starts_no_container(caller: Caller, as_user: User) -> None:
    source = """
from mxc_ops import MxcError, Policy, run
try:
    print(run(Policy(containment="lxc"), "id"))
except MxcError as error:
    print(error.problems[0].code, error.problems[0].fix)
"""
    environment = {**as_user.environment, "HOME": "/nonexistent"}
    told = as_stranger([as_user.python, "-c", source], environment).stdout
    assert told.startswith("no_subordinate_ids usermod --add-subuids 100000-165535"), told
    assert told.endswith(f" {STRANGER}\n")


def test_a_named_user_is_that_user_and_has_a_root_of_its_own(caller: Caller, place: Path) -> None:
    (place / "file").touch(0o600)
    for path in (place, place / "file"):
        os.chown(path, STRANGER, STRANGER)
    told = caller.attempt(
        f"cat /proc/self/uid_map; cat {place}/file; echo new > {place}/file; stat -c %u {place}/file",
        read_write=[place] if caller.uid == 0 else [], user=STRANGER, group=STRANGER,
    )  # fmt: skip
    if caller.uid != 0:
        assert told.codes == ("user_refused",)
        return
    assert told.stdout.split()[3:] == ["1000", "4321", "1", "1000"]
    assert (place / "file").read_text() == "new\n"
    assert (place / "file").stat().st_uid == STRANGER
