"""Whoever is killed at whatever moment: a container leaves nothing behind on the host, root's or a user's."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from backends.launched.parts import STAGE
from backends.linux.numbers import RUN_DIRECTORY
from mxc_ops.session.entry import process_start
from tests.conftest import CHECKOUT, User
from tests.images import image
from tests.security.host import Process, processes, seen_in_mounts, wait_until

pytestmark = [
    pytest.mark.backend("lxc"),
    pytest.mark.skipif(os.geteuid() != 0, reason="containers are started by root"),
]

LOCKS = Path("/run/lxc/lock")
RUN = """
import sys
from mxc_ops import Limits, MxcError, Policy, run
place, nap = sys.argv[1:]
limits = Limits(memory_mib=300, pids=50)
policy = Policy(containment="lxc", read_write=[place], denied=[place + "/no"], limits=limits)
try:
    print(run(policy, f"(setsid sleep {nap} &); sleep {nap}").outcome.value)
except MxcError as error:
    print(error.problems[0].code)
"""
LONG, SHORT = "77{}.25", "0.0{}"
KILLED_AT_MOST_S = 0.12

_turns = (f"{os.getpid():07}{turn:04}" for turn in range(1, 10_000))


@dataclass(frozen=True)
class Place:
    """A folder that is granted, and whose containers are run; None: root's."""

    folder: Path
    user: User | None


class Run:
    """A process that runs a container in which something sleeps, with a mark of its own."""

    def __init__(self, place: Place, nap: str) -> None:
        self.nap = nap.format(next(_turns))
        words = ["-c", RUN, str(place.folder), self.nap]
        self.child = (
            place.user.popen([place.user.python, *words])
            if place.user
            else subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, cwd=CHECKOUT)
        )
        # A number alone may have been that of somebody who was killed in another test.
        self.group_mark = f"-{self.child.pid}-{process_start(self.child.pid)}-"

    def below(self) -> list[Process]:
        """All that descends from it: launcher, lxc-start, process 1, workload."""
        everybody = list(processes())
        parents = {process.pid: parent_of(process.pid) for process in everybody}
        return [process for process in everybody if self.child.pid in ancestors(process.pid, parents)]

    def participant(self, name: str) -> int:
        """The pid of one of those, as soon as there is one."""
        found: list[int] = []

        def look() -> bool:
            found[:] = [process.pid for process in self.below() if is_participant(process, name, self.nap)]
            return bool(found) or self.child.poll() is not None

        wait_until(look, f"there was no {name}")
        assert found, f"it has ended before there was a {name}: {self.told()}"
        return found[0]

    def told(self) -> str:
        out, _ = self.child.communicate(timeout=20)
        return out.decode().strip()


def is_participant(process: Process, name: str, nap: str) -> bool:
    if name == "workload":
        return process.words[:2] == ("/bin/sh", "-c") and nap in process.words[2]
    if name == "process 1":
        return process.words[1:2] == ("inside",)
    return process.words[1:2] == ("outside",) or "--lxcpath" in process.words


def parent_of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def ancestors(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    while pid := parents.get(pid, 0):
        yield pid


@pytest.fixture(params=["root", "user"])
def place(request: pytest.FixtureRequest, tmp_path: Path, as_user: User) -> Place:
    image("base")
    if request.param == "root":
        (tmp_path / "no").touch()
        return Place(tmp_path, None)
    folder = as_user.home / tmp_path.name
    folder.mkdir()
    (folder / "no").touch()
    for path in (folder, folder / "no"):
        os.chown(path, as_user.uid, as_user.gid)
    place = Place(folder, as_user)
    assert Run(place, SHORT).told() == "exited", "the image is unpacked"
    return place


def uids_of(place: Place, pid: int) -> list[int]:
    """The host's ids that were taken for the container that a process is in: a user's takes none."""
    if place.user is not None:
        return []
    with suppress(OSError):
        return [int(line.split()[1]) for line in Path(f"/proc/{pid}/uid_map").read_text().splitlines()]
    return []


def is_free(uid: int) -> bool:
    with Path(f"{RUN_DIRECTORY}/uids/{uid}").open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def groups_of(runs: list[Run]) -> list[str]:
    marks = tuple(run.group_mark for run in runs)
    return [
        folder
        for folder, _, _ in os.walk("/sys/fs/cgroup")
        if any(mark in Path(folder).name for mark in marks)
    ]


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def assert_nothing_is_left(runs: list[Run], place: Place, uids: set[int]) -> None:

    def left() -> list[Process]:
        return [p for p in processes() if any(run.nap in word for run in runs for word in p.words)]

    wait_until(lambda: not left(), f"processes are left: {left()}")
    wait_until(lambda: not seen_in_mounts(place.folder), "a mount is left, or a process that has it")
    wait_until(lambda: all(map(is_free, uids)), "an id is still taken")
    assert list(Path(STAGE).iterdir()) == []
    assert not list(LOCKS.glob(f".{STAGE}/**/*"))
    rootfs = image("base").rootfs
    backing = {file.read_text().strip() for file in Path("/sys/block").glob("loop*/loop/backing_file")}
    assert rootfs not in backing
    assert Run(place, SHORT).told() == "exited", "the next one runs"
    wait_until(lambda: not groups_of(runs), f"control groups are left: {groups_of(runs)}")


@pytest.mark.parametrize("whom", ["caller", "lxc-start", "process 1", "workload"])
def test_nothing_is_left_when_one_of_them_is_killed_at_any_moment(
    place: Place, soak: bool, whom: str
) -> None:
    chance = random.Random(f"{whom} 7")
    runs: list[Run] = []
    uids: set[int] = set()
    for _ in range(100 if soak else 10):
        run = Run(place, LONG)
        runs.append(run)
        if whom == "caller":
            time.sleep(4 * KILLED_AT_MOST_S * chance.random())
            run.child.kill()
            run.child.communicate()
            continue
        pid = run.participant(whom)
        uids |= set(uids_of(place, pid)) if whom != "lxc-start" else set()
        time.sleep(KILLED_AT_MOST_S * chance.random())
        kill(pid)
        told = run.told()
        assert told in ("signalled", "setup_lxc", "launch_failed", "exited"), told
        assert run.child.returncode == 0
    assert_nothing_is_left(runs, place, uids)


def test_nothing_is_left_when_all_of_them_are_killed_at_once(place: Place, soak: bool) -> None:
    runs: list[Run] = []
    uids: set[int] = set()
    for _ in range(20 if soak else 2):
        run = Run(place, LONG)
        runs.append(run)
        uids |= set(uids_of(place, run.participant("workload")))
        for process in run.below():
            kill(process.pid)
        run.child.kill()
        run.child.communicate()
    assert_nothing_is_left(runs, place, uids)


def test_many_callers_killed_while_others_go_on(place: Place, soak: bool) -> None:
    """Nothing of another sandbox is touched."""
    for _ in range(10 if soak else 1):
        lasting = [Run(place, "0.9{}") for _ in range(3)]
        doomed = [Run(place, LONG) for _ in range(5)]
        time.sleep(0.4)
        for run in doomed:
            run.child.kill()
            run.child.communicate()
        assert [run.told() for run in lasting] == ["exited"] * 3
        assert_nothing_is_left(doomed, place, set())


def test_an_end_in_time_leaves_nothing_either(place: Place) -> None:
    run = Run(place, "2.5{}")
    pid = run.participant("workload")
    uids = set(uids_of(place, pid))
    assert len(uids) == (2 if place.user is None else 0)
    assert not any(map(is_free, uids)), "while it runs, they are taken"
    assert seen_in_mounts(place.folder)
    assert run.told() == "exited"
    assert_nothing_is_left([run], place, uids)
