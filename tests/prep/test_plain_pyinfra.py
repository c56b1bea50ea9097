"""The same preparation by the pyinfra command alone, with the same records, on a host of the test's own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CHECKOUT
from tests.prep.private_host import PrivateHost, missing

pytestmark = [
    pytest.mark.backend("bubblewrap"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
PYINFRA = Path(sys.executable).with_name("pyinfra")
INVENTORY, DEPLOY = CHECKOUT / "inventories/local.py", CHECKOUT / "mxc_ops/prep/deploys/host.py"
WANTED = {
    "bubblewrap.package.bwrap",
    "bubblewrap.package.compiler",
    "bubblewrap.directory.helpers",
    "bubblewrap.helper.launcher",
    "bubblewrap.ids.workloads",
}


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    with PrivateHost() as made:
        yield made


def pyinfra(host: PrivateHost, *arguments: str | Path) -> str:
    """What the pyinfra command prints inside; it must succeed."""
    done = subprocess.run(
        host.inside([PYINFRA, *arguments]),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr if "--json" not in arguments else done.stdout


def changed(host: PrivateHost, *arguments: str | Path) -> set[str]:
    """The operations that a run of the command with ``-y --json`` changed something by."""
    answer: dict[str, Any] = json.loads(pyinfra(host, *arguments, "-y", "--json"))
    assert not answer["results"]["failed_hosts"]
    return {
        name.rpartition(" | ")[2]
        for done in answer["results"]["operations"]
        if done["success"]
        for name in done["names"]
    }


def test_the_deploy_prepares_and_records_what_mxc_ops_verifies_and_takes_back(host: PrivateHost) -> None:
    files, packages = host.differences(), host.packages()
    planned = pyinfra(host, INVENTORY, DEPLOY, "--dry")
    assert "bubblewrap.ids.workloads" in planned
    assert host.differences() == files

    assert changed(host, INVENTORY, DEPLOY) == WANTED
    assert {name: receipt["state"] for name, receipt in host.receipts().items()} == dict.fromkeys(
        WANTED, "complete"
    )
    assert changed(host, INVENTORY, DEPLOY) == set()

    assert set(host.prep("host").states.values()) == {"as wanted"}
    verified = host.prep("verify")
    assert (verified.exit_code, set(verified.states.values())) == (0, {"as recorded"}), verified
    undone = host.prep("undo", "--yes")
    assert (undone.exit_code, set(undone.states)) == (0, WANTED), undone
    assert host.differences() == files
    assert host.packages() == packages


def test_what_one_prepared_the_other_mends_and_remembers_how_it_was(host: PrivateHost) -> None:
    host.sh('mkdir /etc/mxc-ops; echo \'{"site": "north"}\' > /etc/mxc-ops/host.json')
    files = host.differences()
    assert host.prep("host", "--item", "bubblewrap.ids.workloads", "--yes").exit_code == 0
    host.sh('echo \'{"site": "south"}\' > /etc/mxc-ops/host.json')
    operation = "mxc_ops.prep.operations.ids.recorded_range"
    arguments = ("path=/etc/mxc-ops/host.json", "wanted=1900000000:4096", "item=bubblewrap.ids.workloads")
    pyinfra(host, "@local", operation, *arguments, "-y")
    assert host.prep("undo", "--yes").exit_code == 0
    assert host.differences() == files


def test_a_single_operation_can_be_called_without_an_item(host: PrivateHost) -> None:
    operation = "mxc_ops.prep.operations.ids.recorded_range"
    pyinfra(host, "@local", operation, "path=/etc/mxc-ops/host.json", "wanted=1900000000:16", "-y")
    recorded = json.loads(host.seen("/etc/mxc-ops/host.json").read_text())
    assert recorded["uidRange"] == {"first": 1900000000, "count": 16}
    assert not host.seen("/var/lib/mxc-ops").exists()
