"""Where supervisors come from: one process for each that starts sandboxes, which ends with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mxc_ops import Policy
from mxc_ops.session.session import Session
from tests.conftest import CHECKOUT
from tests.images import image
from tests.security.host import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers are started by root")

KINDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc", "vm")]
LATE = """
import asyncio, json, sys
from importlib import import_module
from backends import registry
from mxc_ops.session import nursery
nursery._import(sys.argv[1])
known = set(sys.modules)
from mxc_ops import Policy
from mxc_ops.one_shot import prepare
from mxc_ops.sources import as_request

async def start(prepared):
    sandbox = await prepared.backend.start_session(prepared.plan, prepared.handles, None)
    (await sandbox.relay()).close()
    await sandbox.end()

with prepare(as_request(Policy(containment=sys.argv[1]).as_config("true"))) as prepared:
    asyncio.run(start(prepared))
ours = ("mxc_ops", "backends", "vm_images", "qemu")
print(json.dumps([name for name in set(sys.modules) - known if name.partition(".")[0] in ours]))
"""
START = """
import os, sys
from mxc_ops import Policy
from mxc_ops.session.session import Session
from mxc_ops.session.nursery import nursery
one = Session.open(Policy(containment="bubblewrap"))
first = nursery("bubblewrap")._child.pid
if os.fork() == 0:
    other = Session.open(Policy(containment="bubblewrap"))
    print("in a fork", nursery("bubblewrap")._child.pid != first, other.exec("echo fine").stdout, flush=True)
    other.close()
    os._exit(0)
os.wait()
print(one.id, first, flush=True)
"""


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_supervisor_has_nothing_left_to_import(kind: str) -> None:
    image("base")
    command = [sys.executable, "-c", LATE, kind]
    # What a config was found to be is kept: nobody starts one that was never looked at.
    subprocess.run(command, cwd=CHECKOUT, capture_output=True, check=True)
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.backend("bubblewrap")
def test_it_ends_with_its_process_and_supervisors_do_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    forked, last = done.stdout.splitlines()
    assert forked == "in a fork True b'fine\\n'", "whoever a fork becomes has one of its own"
    one, pid = last.split()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the nursery is left")
    with Session.attach(one) as session:
        assert session.exec("echo there").stdout == b"there\n"


@pytest.mark.backend("bubblewrap")
def test_one_that_is_killed_is_replaced() -> None:
    with Session.open(Policy(containment="bubblewrap")) as first:
        before = set(children(os.getpid()))
        for pid in before:
            if b"nursery" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        with Session.open(Policy(containment="bubblewrap")) as second:
            assert second.exec("echo fine").stdout == first.exec("echo fine").stdout == b"fine\n"
        assert len(children(os.getpid())) == len(before), "the killed one was waited for"
