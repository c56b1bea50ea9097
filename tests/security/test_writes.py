"""Writing where nothing was granted, and escapes through what the kernel lets be written."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.security.callers import Caller
from tests.security.upstream import ALL_CAPABILITIES

HOST_TREES = ("/", "/etc", "/usr", "/usr/bin", "/usr/lib", "/usr/share", "/run", "/var", "/proc", "/dev")
KERNEL_FILES = (
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger",
    "/proc/1/oom_score_adj",
    "/sys/kernel/uevent_helper",
    "/sys/fs/cgroup/memory/release_agent",
    "/sys/fs/cgroup/pids/release_agent",
    "/sys/fs/cgroup/unified/cgroup.procs",
)

# The sandbox's own: private directories, harmless devices, settings of its own ipc and pid namespaces.
OWN_AND_WRITABLE = (
    *("/tmp", "/dev/shm", "/dev/pts", "/dev/tty", "/dev/null", "/dev/zero", "/dev/full", "/dev/random"),
    *("/dev/urandom", "/proc/sys/fs/mqueue/", "/proc/sys/kernel/msg", "/proc/sys/kernel/shm"),
    *("/proc/sys/kernel/sem", "/proc/sys/kernel/auto_msgmni", "/proc/sys/kernel/ns_last_pid"),
    *("/proc/sys/kernel/pid_max", "/proc/pressure/"),
)

# Everybody's folders of the image, in the container's own memory; its own pseudo terminals.
OF_A_CONTAINER = ("/var/tmp", "/run/lock", "/dev/ptmx")


def test_creating_files_in_the_systems_directories(caller: Caller, root: Caller, probe: Path) -> None:
    names = [f"{tree.rstrip('/')}/mxc-probe-{caller.name}" for tree in HOST_TREES]
    attack = [probe, *(f"create={name}" for name in names)]
    try:
        allowed = root.bare(attack, "--dev", "/dev", "--tmpfs", "/etc", "--tmpfs", "/usr/share").stdout
        assert allowed.count("create ok") >= 6, "a sandbox with the root writable creates files"
        told = caller.run(attack, read_only=[probe.parent])
        assert "create ok" not in told.stdout
        assert told.stdout.count("create E") == len(names)
    finally:
        for name in names:
            Path(name).unlink(missing_ok=True)


def test_opening_the_kernels_switches_for_writing(caller: Caller, root: Caller, probe: Path) -> None:
    attack = [probe, *(f"open-write={name}" for name in KERNEL_FILES)]
    assert "open-write ok" in root.bare(attack).stdout
    told = caller.run(attack, read_only=[probe.parent])
    assert told.stdout.count("open-write E") == len(KERNEL_FILES), told


def test_the_cgroup_tree_is_not_there(caller: Caller) -> None:
    attack = "ls /sys/fs/cgroup"
    assert "memory" in caller.bare(attack).stdout
    assert caller.run(attack).stdout == ""


def test_mounting_a_cgroup_tree_for_its_release_agent(caller: Caller, root: Caller) -> None:
    attack = "mkdir /tmp/c; mount -t cgroup -o memory c /tmp/c; ls /tmp/c"
    assert "release_agent" in root.bare(attack, "--tmpfs", "/tmp").stdout
    assert "release_agent" not in caller.run(attack).stdout


def test_writing_to_a_read_only_grant(caller: Caller, place: Path) -> None:
    (place / "note").write_text("before")
    os.chown(place / "note", caller.uid, caller.gid)
    attack = f"echo after > {place}/note; rm {place}/note; touch {place}/new; chmod 777 {place}"
    caller.run(attack, read_only=[place])
    assert (place / "note").read_text() == "before"
    assert [file.name for file in place.iterdir()] == ["note"]
    caller.upstream(attack, read_write=[place])
    assert [file.name for file in place.iterdir()] == ["new"], "the same attack writes where it may"


def test_nothing_else_can_be_written(caller: Caller) -> None:
    """Whatever a file's place, the kernel itself is asked whether it may be written."""
    search = "find / -path '/proc/[0-9]*' -prune -o -writable -not -type l -print"
    told = caller.run(["sh", "-c", f"{search} 2> /dev/null"])
    own = (*OWN_AND_WRITABLE, *(OF_A_CONTAINER if caller.own_system else ()))
    found = {name for name in told.stdout.splitlines() if not name.startswith(own)}
    assert found == set()
    assert "/tmp" in told.stdout.splitlines(), "the search works"


@pytest.mark.parametrize(
    "remount", ["mount -o remount,rw,bind {}", "{probe} remount={}", "mount -o remount,rw {}"]
)
def test_by_making_a_read_only_grant_writable(caller: Caller, place: Path, probe: Path, remount: str) -> None:
    attack = f"{remount.format(place, probe=probe)}; touch {place}/new"
    policy: dict[str, Any] = {"read_only": [place, probe.parent]}
    if "bind" in remount or "probe" in remount:
        if caller.uid == 0:
            caller.upstream(attack, **policy)
        else:
            caller.bare(attack, *ALL_CAPABILITIES, **policy)
        assert (place / "new").exists(), "with capabilities the remount works"
        (place / "new").unlink()
    caller.run(attack, **policy)
    assert not (place / "new").exists()


WAYS_TO_SET_MODES = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "open", "openat", "openat2", "creat", "mknod", "mknodat"),
    "tmpfile",
)


def test_a_setuid_program_left_behind_in_a_read_write_grant(caller: Caller, place: Path, probe: Path) -> None:
    """A grant's files keep their owner on the host: one of root's would be a door to root for everybody."""
    attack = [probe, *(f"setuid-file={place}/{way},{way}" for way in WAYS_TO_SET_MODES)]
    policy: dict[str, Any] = {"read_write": [place], "read_only": [probe.parent]}
    caller.upstream(attack, **policy)
    left = {file.name for file in place.iterdir() if file.stat().st_mode & stat.S_ISUID}
    assert left >= {*WAYS_TO_SET_MODES} - {"fchmodat2", "tmpfile"}, "upstream leaves setuid programs"
    for file in place.iterdir():
        file.unlink()
    told = caller.run(attack, **policy)
    left = {file.name for file in place.iterdir() if file.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)}
    assert left == set(), told


def test_a_setuid_program_of_the_system_gains_nothing(caller: Caller) -> None:
    attack = (
        "find / -xdev -perm -4000 -exec {} --version ';' > /dev/null 2>&1; grep NoNewPrivs /proc/self/status"
    )
    assert "NoNewPrivs:\t1" in caller.run(attack).stdout
    told = caller.run("su -c id; sudo -n id; id -u")
    assert "uid=0" not in told.stdout


def test_making_device_nodes(caller: Caller, root: Caller, place: Path, probe: Path) -> None:
    attack = [probe, f"mknod={place}/zero", "mknod=/tmp/zero", "mknod=/dev/zero2", "mknod=/dev/shm/zero"]
    assert "mknod ok" in root.bare(attack, "--dev", "/dev").stdout
    for path in (place / "zero", Path("/tmp/zero"), Path("/dev/shm/zero")):
        path.unlink(missing_ok=True)
    told = caller.run(attack, read_write=[place], read_only=[probe.parent])
    assert told.stdout.count("mknod E") == 4, told
    assert not (place / "zero").exists()


def test_devices_in_a_granted_directory_do_not_work(
    caller: Caller, root: Caller, place: Path, probe: Path
) -> None:
    device = place / "zero"
    os.mknod(device, 0o020666, os.makedev(1, 5))
    device.chmod(0o666)
    attack = [probe, f"open-read={device}"]
    assert caller.program(attack).results["open-read"] == "ok"
    assert caller.run(attack, read_only=[place, probe.parent]).results["open-read"] == "EACCES"


def test_linking_what_is_read_only_into_what_is_writable(caller: Caller, place: Path, probe: Path) -> None:
    """A second name in a writable directory would make the file writable (gap F3)."""
    fixed, free = place / "fixed", place / "free"
    for folder in (fixed, free):
        folder.mkdir()
    (fixed / "note").write_text("before")
    for path in (fixed, free, fixed / "note"):
        os.chown(path, caller.uid, caller.gid)
    attack = (
        f"{probe} link={fixed}/note,{free}/twin rename={fixed}/note,{free}/moved; echo after >> {free}/twin"
    )
    ours = caller.run(attack, read_write=[free], read_only=[fixed, probe.parent])
    nested = caller.run(attack, read_write=[place], read_only=[fixed, probe.parent])
    for told in (ours, nested):
        assert "link E" in told.stdout and "rename E" in told.stdout
    assert (fixed / "note").read_text() == "before"
    caller.bare(attack, read_write=[place])
    assert (free / "moved").exists(), "in one writable tree the rename works"


@pytest.mark.parametrize("access", ["read_only", "denied"])
def test_moving_the_parent_of_a_protected_path_out_of_the_way(
    caller: Caller, place: Path, access: str
) -> None:
    """Policies name paths: what can be moved away, with something else put there, was never protected."""

    def attack(project: Path, way: Callable[..., object]) -> str:
        hooks = project / "meta" / "hooks"
        hooks.mkdir(parents=True)
        (hooks / "run").write_text("before\n")
        for path in (project, hooks.parent, hooks, hooks / "run"):
            os.chown(path, caller.uid, caller.gid)
        replace = f"cd {project}; mv meta gone && mkdir -p meta/hooks && echo after > meta/hooks/run"
        policy: dict[str, Any] = {"read_write": [project], access: [hooks]}
        way(replace, **policy)
        return (hooks / "run").read_text()

    assert attack(place / "theirs", caller.upstream) == "after\n"
    assert attack(place / "ours", caller.run) == "before\n"


def test_writing_through_the_program_of_a_process_that_ran(caller: Caller, place: Path) -> None:
    """The way of CVE-2019-5736: a descriptor taken from /proc/PID/exe leads to the host's file."""
    tool = place / "tool"
    shutil.copy("/usr/bin/sleep", tool)
    os.chown(tool, caller.uid, caller.gid)
    attack = f"{tool} 0.4 & sleep 0.1; exec 9< /proc/$!/exe; wait; echo overwritten >> /proc/self/fd/9"
    size = tool.stat().st_size
    caller.run(attack, read_only=[place])
    assert tool.stat().st_size == size
    caller.upstream(attack, read_write=[place])
    assert tool.stat().st_size > size, "where the file is writable the way works"


def test_writing_to_the_programs_that_make_the_sandbox(caller: Caller, root: Caller, probe: Path) -> None:
    attack = [probe, "open-write=/usr/bin/bwrap", "open-write=/proc/1/exe", "open-read=/proc/1/exe"]
    assert root.bare(attack, "--unshare-pid", "--proc", "/proc").stdout.split()[-1] == "ok"
    told = caller.run(attack, read_only=[probe.parent])
    there = "ENOENT" if caller.own_system else "EACCES"
    assert told.stdout.splitlines() == [f"open-write {there}", "open-write EACCES", "open-read EACCES"]
