"""Owners of virtual machines that are killed: at whatever moment, nothing of theirs is left."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backends.frozen import field_names, replace
from backends.linux.numbers import RUN_DIRECTORY
from backends.linux.uid_range import configured_range
from backends.virtual_machine import Image
from tests.conftest import CHECKOUT
from tests.vm_engine import Engine, descendants, drive, opened_engine

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

RUNS = f"""
import json, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from backends.base import Environment, SandboxRequest
from backends.virtual_machine import Image, VirtualMachine
from mxc_ops.one_shot import run
image = Image(**json.loads(sys.argv[1]))
environment = Environment((("PATH", "/usr/bin:/bin"),))
request = SandboxRequest(
    "vm", shell=sys.argv[2], environment=environment, vm=VirtualMachine(image.name, image)
)
run(request, stdout=1)
"""
BUILDS = f"""
import json, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from pathlib import Path
from backends.virtual_machine import Image
from tests.vm_engine import Engine, drive
image = Image(**json.loads(sys.argv[1]))
print("ready", flush=True)
while True:
    engine = Engine(image, Path(sys.argv[2]))
    drive(engine.works())
    engine.store.remove(engine.plan.key)
"""
_PATIENCE_S = 20.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Its image lies in a folder of its own: whoever has a file of that open belongs to these tests."""
    with opened_engine(tmp_path_factory.getbasetemp() / "templates") as made:
        folder = Path(tempfile.mkdtemp(prefix="mxc-ops-image-"))
        folder.chmod(0o755)
        parts = {
            name: shutil.copy(getattr(made.image, name), folder) for name in ("kernel", "initrd", "rootfs")
        }
        made.image = replace(made.image, **parts)
        drive(made.template())
        yield made
        shutil.rmtree(folder)


def as_json(image: Image) -> str:
    return json.dumps({name: getattr(image, name) for name in field_names(Image) if name != "system"})


READY = "echo ready; sleep 1000"


class Owner:
    """A process that owns machines, and what it is seen to have."""

    def __init__(self, source: str, *arguments: str | Path) -> None:
        argv = [sys.executable, "-c", source, *arguments]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.objects: set[tuple[int, int]] = set()
        self.uids: set[int] = set()

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def look(self) -> None:
        """Note memory files, sockets and uids of the owner and of everything below it."""
        uids = configured_range()
        for pid in descendants(self.process.pid):
            self.objects |= set(open_objects(pid))
            with suppress(OSError):
                uid = Path(f"/proc/{pid}").stat().st_uid
                if uids is not None and uids.first <= uid < uids.first + uids.count:
                    self.uids.add(uid)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def open_objects(pid: int) -> Iterator[tuple[int, int]]:
    """(device, inode) of the memory files, sockets and pipes that a process has open."""
    for path in entries(f"/proc/{pid}/fd"):
        with suppress(OSError):
            link = os.readlink(path)  # noqa: PTH115 - what it is a link to may have no path
            if link.startswith(("/memfd:", "socket:", "pipe:")):
                status = os.stat(path)  # noqa: PTH116 - of what is open, not of a path
                yield status.st_dev, status.st_ino


def entries(folder: str) -> list[str]:
    with suppress(OSError):
        return [str(path) for path in Path(folder).iterdir()]
    return []


def processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def users_of(folder: Path) -> list[int]:
    """Every process that has something in a folder open."""
    found: list[int] = []
    for pid in processes():
        with suppress(OSError):
            if any(os.readlink(path).startswith(f"{folder}/") for path in entries(f"/proc/{pid}/fd")):  # noqa: PTH115
                found.append(pid)
    return found


def is_free(uid: int) -> bool:
    """Nobody holds the lock of a uid of ours."""
    with open(f"{RUN_DIRECTORY}/uids/{uid}", "rb") as file:  # noqa: PTH123
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def groups_of(owner: Owner) -> list[Path]:
    return list(Path("/sys/fs/cgroup").rglob(f"mxc-ops-*-{owner.process.pid}-*-*"))


def comes_true(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def assert_nothing_left(owner: Owner, folder: Path) -> None:
    assert comes_true(lambda: not users_of(folder)), f"processes are left: {users_of(folder)}"

    def left() -> set[tuple[int, int]]:
        others = (pid for pid in processes() if pid != os.getpid())  # the end of its output is ours
        return {found for pid in others for found in open_objects(pid)} & owner.objects

    assert comes_true(lambda: not left()), f"memory files, sockets or pipes are left: {left()}"
    assert comes_true(lambda: all(map(is_free, owner.uids))), f"uids are still taken: {owner.uids}"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_of_a_run_whose_owner_ends(engine: Engine, number: signal.Signals) -> None:
    owner = Owner(RUNS, as_json(engine.image), READY)
    folder = Path(engine.image.kernel).parent
    try:
        owner.wait_until_ready()
        owner.look()
        assert users_of(folder), "QEMU has the image open"
        assert len(owner.objects) > 3
        if os.geteuid() == 0:
            assert len(owner.uids) == 1
        owner.process.send_signal(number)
        owner.process.wait(_PATIENCE_S)
        assert_nothing_left(owner, folder)
    finally:
        owner.kill()


def test_nothing_is_left_of_owners_killed_at_any_moment(engine: Engine, soak: bool) -> None:
    """While it looks at the host, starts QEMU, restores, runs."""
    folder = Path(engine.image.kernel).parent
    dice = random.Random(4)
    start = time.monotonic()
    first = Owner(RUNS, as_json(engine.image), READY)
    first.wait_until_ready()
    longest = 1.2 * (time.monotonic() - start)
    first.kill()
    owners = [first]
    kills = 100 if soak else 10
    for turn in range(kills):
        owner = Owner(RUNS, as_json(engine.image), READY)
        owners.append(owner)
        time.sleep(longest * (turn + dice.random()) / kills)
        owner.look()
        owner.kill()
        assert_nothing_left(owner, folder)
    last = Owner(RUNS, as_json(engine.image), "echo ready")
    last.wait_until_ready()
    assert last.process.wait(_PATIENCE_S) == 0
    last.kill()
    assert [group for owner in owners for group in groups_of(owner)] == [], "the next run removes empty ones"


def test_builders_of_templates_killed_at_any_moment_leave_nothing(
    engine: Engine, tmp_path: Path, soak: bool
) -> None:
    folder = Path(engine.image.kernel).parent
    store = tmp_path / "templates"
    store.mkdir(mode=0o700)
    dice = random.Random(5)
    kills = 20 if soak else 2
    for turn in range(kills):
        owner = Owner(BUILDS, as_json(engine.image), store)
        owner.wait_until_ready()
        time.sleep(4 * (turn + dice.random()) / kills)
        owner.look()
        owner.kill()
        assert_nothing_left(owner, folder)
    with opened_engine(store) as other:
        drive(other.works())
    assert sorted(path.name for path in store.iterdir()) == [".lock", engine.plan.key]
