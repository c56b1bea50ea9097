"""Callers, the probe and places for attacks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.inside.build import build_program
from backends.inside.store import LAUNCHER, find_program
from backends.linux.uid_range import configured_range
from tests.conftest import User
from tests.images import image
from tests.probe import build_probe
from tests.security.callers import BY_BUBBLEWRAP, BY_LXC, BY_SESSION, Caller, remove_tree


@pytest.fixture(scope="session")
def prepared_host() -> None:
    """What a sandbox needs of this host, made by the project's own means where it is missing."""
    if os.geteuid() == 0 and configured_range() is None:
        prep = ["-m", "mxc_ops.cli", "prep", "host", "--backend", "bubblewrap", "--yes"]
        subprocess.run([sys.executable, *prep], check=True, timeout=900)
    if find_program(LAUNCHER) is None:
        build_program(LAUNCHER)


@pytest.fixture(scope="session", params=[*BY_BUBBLEWRAP, *BY_LXC, *BY_SESSION])
def caller(request: pytest.FixtureRequest, prepared_host: None, as_user: User) -> Iterator[Caller]:
    """Who makes the attack: every test runs as root and as a user without rights, in a one-shot sandbox, a
    container and a session."""
    name, containment, *session = request.param
    if name == "root" and os.geteuid() != 0:
        pytest.skip("only root can attack as root")
    if containment == "lxc":
        image("base")
    made = Caller(name, as_user if name == "user" else None, containment, session=bool(session))
    yield made
    made.close()


@pytest.fixture(scope="session")
def root(prepared_host: None) -> Iterator[Caller]:
    """For controls that need more rights than the caller of the test has."""
    if os.geteuid() != 0:
        pytest.skip("showing that this attack works takes root")
    made = Caller("root", None)
    yield made
    made.close()


@pytest.fixture(scope="session")
def probe(prepared_host: None) -> Iterator[Path]:
    """The compiled probe, in a directory that everybody can read; grant `probe.parent` read-only."""
    folder = Path(tempfile.mkdtemp(prefix="mxc-ops-probe-"))
    yield build_probe(folder)
    remove_tree(folder)


@pytest.fixture
def place(caller: Caller) -> Iterator[Path]:
    """A directory of the caller's own, outside of every baseline."""
    folder = Path(tempfile.mkdtemp(prefix="mxc-ops-place-"))
    folder.chmod(0o755)
    os.chown(folder, caller.uid, caller.gid)
    yield folder
    remove_tree(folder)
