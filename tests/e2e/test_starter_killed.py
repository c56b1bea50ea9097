"""What bubblewrap or LXC has cloned waits for it: nobody waits for ever when that is killed in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mxc_ops import LaunchFailed, Policy, Process, Sandbox
from mxc_ops.session.service import Sessions
from tests.conftest import CHECKOUT
from tests.e2e.sessions import until
from tests.images import image

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="root starts them here")
kinds = pytest.mark.parametrize(
    "kind", [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc")]
)
_ATTEMPTS, _LOOK_S = 300, 0.5
_OWNER = """
import sys
from mxc_ops import Policy, Sandbox
process = Sandbox(Policy(containment=sys.argv[1])).spawn("sleep 600")
print(process.pid, flush=True)
sys.stdin.read()
"""


def words(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def stopped_clone_of(starter: int) -> int:
    """Its child, while that still waits for it; 0 when it was too quick for us."""
    give_up = time.monotonic() + _LOOK_S
    while time.monotonic() < give_up:
        with suppress(OSError):
            for child in map(int, Path(f"/proc/{starter}/task/{starter}/children").read_text().split()):
                os.kill(child, signal.SIGSTOP)
                if words(child) == words(starter) != b"":
                    return child
                os.kill(child, signal.SIGCONT)
                return 0
    return 0


def is_gone(pid: int) -> bool:
    return words(pid) == b""


def caught(spawn: Callable[[], tuple[int, Callable[[], object]]]) -> tuple[int, int]:
    """(starter, clone) of the first one that we are quick enough for; all others are ended."""
    for _ in range(_ATTEMPTS):
        starter, end = spawn()
        if clone := stopped_clone_of(starter):
            return starter, clone
        end()
    pytest.fail("none was caught")


@kinds
def test_its_owner_ends_it(kind: str) -> None:
    if kind == "lxc":
        image("base")
    started: list[Process] = []

    def spawn() -> tuple[int, Callable[[], object]]:
        process = Sandbox(Policy(containment=kind)).spawn("sleep 600")
        started.append(process)
        return process.pid, process.kill

    starter, clone = caught(spawn)
    os.kill(starter, signal.SIGKILL)
    with suppress(ProcessLookupError):  # some have LXC's own wish to die with their parent by then
        os.kill(clone, signal.SIGCONT)
    with pytest.raises(LaunchFailed):
        started[-1].wait()
    until(lambda: is_gone(clone))


@kinds
def test_where_the_owner_was_killed_as_well_gc_does(kind: str) -> None:
    if kind == "lxc":
        image("base")
    owners: list[subprocess.Popen[str]] = []

    def spawn() -> tuple[int, Callable[[], object]]:
        owner = subprocess.Popen(
            [sys.executable, "-c", _OWNER, kind],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        owners.append(owner)
        assert owner.stdout is not None
        return int(owner.stdout.readline()), owner.kill

    starter, clone = caught(spawn)
    os.kill(starter, signal.SIGKILL)
    owners[-1].kill()
    for owner in owners:
        owner.communicate()
    with suppress(ProcessLookupError):
        os.kill(clone, signal.SIGCONT)
    Sessions().gc()
    until(lambda: is_gone(clone))
