"""Callers for the tests of the command line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.conftest import User
from tests.e2e.commands import Commands


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
