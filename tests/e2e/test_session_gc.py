"""What `session gc` finds beside the store: control groups, and copies that were on their way back."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from backends.guest_files.journal import Journal, Noted
from mxc_ops import Limits, Policy, Session
from mxc_ops.session.service import Sessions
from tests.e2e.commands import MXC_OPS, Commands
from tests.e2e.sessions import until
from tests.images import image

_KINDS = [pytest.param(name, marks=pytest.mark.backend(name)) for name in ("bubblewrap", "lxc", "vm")]


def groups_of(pid: int) -> list[str]:
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if f"-{pid}-" in Path(folder).name]


@pytest.mark.skipif(os.geteuid() != 0, reason="kills what root has started")
@pytest.mark.parametrize("kind", _KINDS)
def test_control_groups_of_a_killed_supervisor_go(kind: str) -> None:
    if kind != "bubblewrap":
        image("base")
    service = Sessions()
    with Session.open(Policy(containment=kind, limits=Limits(pids=100))) as session:
        pid = service.inspect(session.id)["supervisor"]["pid"]
        os.kill(pid, signal.SIGKILL)
        until(lambda: service.inspect(session.id)["state"] == "stale")

        def is_swept() -> bool:
            """A process that is still dying keeps its group for a moment."""
            service.gc()
            return not groups_of(pid)

        until(is_swept)
        assert service.inspect(session.id)["state"] == "provisioned"


@pytest.mark.backend("vm")
def test_what_was_being_copied_back_when_its_supervisor_was_killed_is_ended(somebody: Commands) -> None:
    grant = somebody.folder / "grant"
    grant.mkdir()
    journals = somebody.home / ".local/state/mxc-ops/copy-back"
    status = grant.stat()
    noted = Noted("a" * 32, str(grant), "/filesystem", (status.st_dev, status.st_ino), (0, 0), directory=True)
    Journal.begin(str(journals), noted).close()
    for path in (grant, *(somebody.home / ".local").rglob("*"), somebody.home / ".local"):
        somebody.own(path)
    told = json.loads(somebody.run(MXC_OPS, "session", "gc", "--json").stdout)
    said = f"copying back {grant}, which was interrupted in an earlier run, was rolled back"
    assert told["warnings"] == [said]
    assert json.loads(somebody.run(MXC_OPS, "session", "gc", "--json").stdout)["warnings"] == []
    shutil.rmtree(grant)
