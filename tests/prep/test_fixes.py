"""Fixes of hosts elsewhere: pasted where the controller is, each runs on the host that it is for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backends.needs import Health, Probe
from mxc_ops.prep.engine.fixes import of_probe
from mxc_ops.prep.engine.session import Session
from mxc_ops.prep.items import HostFacts
from mxc_ops.prep.messages import Request, Task
from mxc_ops.prep.operations.common import Access
from tests.prep.loopback import USER, Sshd, missing

REQUEST = Request(Task.EXAMINE, inventory="my fleet.py")
THERE = "--inventory 'my fleet.py' --limit w1"


@pytest.fixture(scope="module")
def host() -> Iterator[Sshd]:
    if missing():
        pytest.skip(missing())
    with Sshd("touch /run/this-is-it") as running:
        yield running


def session(elevation: str, name: str = "w1", system: str = "linux") -> Session:
    facts = HostFacts(name, "", "debian", elevation, system=system)
    return Session(cast(Any, SimpleNamespace(name=name)), facts, Access(elevation=elevation))


def probe(fix: str, privilege: str = "root") -> Probe:
    return Probe("a.b", Health.FAILED, "seen", "why", fix, privilege)


@pytest.mark.parametrize(
    ("elevation", "fix", "pasted"),
    [
        ("root", "mxc-ops doctor --backend lxc", f"mxc-ops doctor {THERE} --backend lxc"),
        ("none", "mxc-ops doctor --backend lxc", f"mxc-ops doctor {THERE} --ask-sudo-password --backend lxc"),
        ("sudo", "mxc-ops prep host --yes", f"mxc-ops prep host {THERE} --yes"),
        ("root", "modprobe kvm", "pyinfra -y --limit w1 'my fleet.py' exec -- 'modprobe kvm'"),
        ("sudo", "modprobe kvm", "pyinfra -y --sudo --limit w1 'my fleet.py' exec -- 'modprobe kvm'"),
        (
            "sudo-password",
            "dmesg | grep kvm",
            "pyinfra -y --sudo --use-sudo-password --limit w1 'my fleet.py' exec -- 'dmesg | grep kvm'",
        ),
        ("root", "", ""),
    ],
)
def test_a_fix_is_aimed_at_the_host_that_was_probed(elevation: str, fix: str, pasted: str) -> None:
    assert of_probe(probe(fix), session(elevation), REQUEST) == pasted


def test_windows_knows_no_sudo() -> None:
    there = session("none", "@mxcwin/w", "windows")
    fix = of_probe(probe("Restart-Computer", "administrator"), there, REQUEST)
    assert fix == "pyinfra -y --limit @mxcwin/w 'my fleet.py' exec -- Restart-Computer"


@pytest.mark.parametrize("user", ["root", USER])
def test_a_command_of_the_host_runs_there_when_it_is_pasted(host: Sshd, tmp_path: Path, user: str) -> None:
    inventory = tmp_path / "a fleet.py"
    inventory.write_text(f"hosts = [('w1', {host.data(user)!r}), ('w2', {host.data(ssh_port=1)!r})]\n")
    command = probe("ls /run/this-* | tr a-z A-Z; id -un", "none")
    fix = of_probe(command, session("root"), Request(Task.EXAMINE, inventory=str(inventory)))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", fix],
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "[w1] /RUN/THIS-IS-IT" in done.stdout + done.stderr
    assert f"[w1] {user}" in done.stdout + done.stderr
