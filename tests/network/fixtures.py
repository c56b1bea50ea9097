"""The bed, and who runs sandboxes in it: fixtures of one per session. A pytest plugin.

Test modules name it in `pytest_plugins`, so that all of them have the same bed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, User
from tests.containers import debian_archive
from tests.images import image
from tests.network.bed import Bed, network_bed
from tests.network.flavours import Flavour, copy_python
from tests.network.lab import Lab
from tests.network.link import Link
from tests.unit.agent_client import agent_path
from tests.unit.launching import launcher_path
from vm_images.oci.importing import import_archive
from vm_images.oci.inventory import remove

_SOURCE = Path(__file__).with_name("in_namespace.py").read_text()


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces for tests")
    with network_bed() as made:
        yield made


@pytest.fixture(scope="session")
def callers(bed: Bed, as_user: User) -> Mapping[str, Link]:
    """Who runs sandboxes on the bed's host: root, and a user without rights."""
    launcher_path()
    agent_path()
    python = [as_user.python, "-c", _SOURCE]
    drop = ["setpriv", f"--reuid={as_user.uid}", f"--regid={as_user.gid}", "--clear-groups"]
    ours = [sys.executable, "-c", _SOURCE]
    return {
        "root": bed.link(bed.inside_host(ours), cwd=CHECKOUT),
        "user": bed.link(bed.inside_host([*drop, *python]), cwd=as_user.home, env=dict(as_user.environment)),
    }


@pytest.fixture(scope="session")
def portable_python() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mxc-ops-python-"))
    folder.chmod(0o755)
    yield copy_python(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def python_container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The reference of a container image of Debian with Python, in the system's store."""
    image("utility")
    reference = "mxc-test/python:network"
    import_archive(debian_archive(tmp_path_factory.mktemp("debian")), reference)
    yield reference
    remove(reference)


@pytest.fixture
def lab(request: pytest.FixtureRequest, bed: Bed, callers: Mapping[str, Link], flavour: Flavour) -> Lab:
    """For tests that are parametrised with `flavour`, of `tests.network.flavours.FLAVOURS`."""
    if flavour.containment == "lxc":
        image("base")
        flavour = replace(flavour, python=request.getfixturevalue("portable_python"))
    elif flavour.containment == "wslc":
        flavour = replace(flavour, image=request.getfixturevalue("python_container"))
    elif flavour.is_machine:
        image("python")
    bed.out_there.ask("seen")
    bed.on_host.ask("seen")
    return Lab(bed, flavour, callers[flavour.caller])
