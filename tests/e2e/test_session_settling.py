"""The end of a session: a virtual machine's copies of the host's files come back, or nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.errors import CopyBackFailed, LifecycleError
from mxc_ops import Policy
from mxc_ops.session.service import Sessions
from mxc_ops.session.session import Session
from tests.images import image

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system that is too small"),
    pytest.mark.backend("vm"),
]

COMMAND = (sys.executable, "-m", "mxc_ops.cli")


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    image("base")


@pytest.fixture
def grant(tmp_path: Path) -> Path:
    folder = tmp_path / "grant"
    folder.mkdir()
    (folder / "both").write_text("before")
    (folder / "mine").write_text("before")
    return folder


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,mode=755", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_what_was_changed_comes_back_and_conflicts_are_told(grant: Path) -> None:
    session = Session.open(Policy(containment="vm", read_write=(grant,)))
    changed = f"cd {grant}; echo sandbox > mine; echo sandbox > both; echo new > new"
    assert session.exec(changed).exit_code == 0
    (grant / "both").write_text("host")
    assert (grant / "mine").read_text() == "before", "copies: nothing comes back before the end"
    settled = session.stop()
    assert [conflict.path for conflict in settled.conflicts] == [str(grant / "both")]
    assert (grant / "both").read_text() == "host"
    assert Path(settled.conflicts[0].kept_as).read_text() == "sandbox\n"
    assert ((grant / "mine").read_text(), (grant / "new").read_text()) == ("sandbox\n", "new\n")
    journal = Sessions().inspect(session.id)["journal"]
    assert [one["path"] for one in journal[-1]["conflicts"]] == [str(grant / "both")]
    session.close()


def test_a_suspended_one_is_brought_back_too_and_the_command_line_tells_conflicts(grant: Path) -> None:
    session = Session.open(Policy(containment="vm", read_write=(grant,)))
    session.exec(f"echo sandbox > {grant}/both")
    session.suspend()
    (grant / "both").write_text("host")
    done = subprocess.run(
        [*COMMAND, "session", "deprovision", session.id], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert f"{grant}/both was changed on the host during the run" in done.stderr
    assert "the sandbox's version is kept as" in done.stderr
    with pytest.raises(LifecycleError):
        Session.attach(session.id)


def test_what_cannot_come_back_keeps_the_sandbox_running_until_it_can(full: Path, grant: Path) -> None:
    session = Session.open(Policy(containment="vm", read_write=(grant, full)))
    job = session.detach(["/bin/sleep", "300"])["job"]
    session.exec(f"head -c 1M /dev/zero > {full}/big; echo sandbox > {grant}/mine")
    with pytest.raises(CopyBackFailed) as caught:
        session.stop()
    assert caught.value.problems[-1].fix == f"mxc-ops session stop --discard {session.id}"
    assert Sessions().inspect(session.id)["state"] == "running"
    assert session.job(job)["status"] == signal.SIGKILL, "all that ran was ended"
    subprocess.run(["mount", "-o", "remount,size=8m", full], check=True)
    settled = session.close()
    assert (settled.conflicts, (full / "big").stat().st_size) == ((), 1 << 20)
    assert (grant / "mine").read_text() == "sandbox\n"


def test_discarding_is_said(full: Path) -> None:
    session = Session.open(Policy(containment="vm", read_write=(full,)))
    session.exec(f"head -c 1M /dev/zero > {full}/big")
    session.close(discard=True)
    assert list(full.iterdir()) == []


def test_a_lost_supervisor_is_told_with_what_is_lost(grant: Path) -> None:
    session = Session.open(Policy(containment="vm", read_write=(grant,)))
    session.exec(f"echo sandbox > {grant}/mine")
    os.kill(Sessions().inspect(session.id)["supervisor"]["pid"], signal.SIGKILL)
    settled = session.close()
    assert "is lost" in settled.warnings[0]
    assert (grant / "mine").read_text() == "before"
