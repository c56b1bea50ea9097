"""Callers for the tests of the command line, and containments for the tests that several have in common."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import User
from tests.e2e.commands import Commands
from tests.e2e.containments import COMMON, Containment
from tests.images import image
from tests.probe import build_probe
from tests.unit.agent_client import agent_path


@pytest.fixture(scope="session", autouse=True)
def agent() -> None:
    """The agent that sessions run is built, also on a host that was not prepared for them."""
    agent_path()


@pytest.fixture(scope="module", params=["root", "user"])
def caller(request: pytest.FixtureRequest, as_user: User) -> Iterator[Commands]:
    """Who calls: each test runs once as root and once as a user without rights."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("only root can call as root")
    made = Commands(request.param, as_user)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def somebody(as_user: User) -> Iterator[Commands]:
    """For what does not depend on who calls."""
    made = Commands("user", as_user)
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture(scope="module", params=COMMON)
def contained(request: pytest.FixtureRequest) -> Containment:
    """Each containment in turn that keeps the promises of the common suite."""
    containment: Containment = request.param
    if containment.own_system:
        image("base")
    return containment


@pytest.fixture(scope="session")
def python_image() -> None:
    """The image that Python source runs in by default is there."""
    image("python")


@pytest.fixture(scope="session")
def probe() -> Iterator[Path]:
    """The compiled probe of tests/security; grant `probe.parent` read-only."""
    folder = Path(tempfile.mkdtemp(prefix="mxc-ops-probe-"))
    yield build_probe(folder)
    shutil.rmtree(folder)
