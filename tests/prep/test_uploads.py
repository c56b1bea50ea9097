"""What an operation brings to a host, on one of the test's own with a /tmp of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import CHECKOUT
from tests.prep.private_host import PrivateHost, missing

pytestmark = [
    pytest.mark.backend("bubblewrap"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
ITEM = "test.uploads"
PROGRAM = b"#!/bin/sh\necho k1\n"


@pytest.fixture
def host() -> Iterator[PrivateHost]:
    with PrivateHost() as made:
        made.empty("/tmp", "1777")
        made.empty("/opt")
        made.sh("mkdir /opt/store")
        made.seen("/run/program").write_bytes(PROGRAM)
        yield made


def push(host: PrivateHost, source: str) -> dict[str, Any]:
    """What comes of the operation that brings a program there."""
    checksum = hashlib.sha256(PROGRAM).hexdigest()
    stored = {"store": "/opt/store", "key": "k1", "program": "p", "sha256": checksum}
    step = {"operation": "helpers.pushed", "arguments": {**stored, "source": source, "item": ITEM}}
    done = subprocess.run(
        host.inside(["env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-m", "tests.prep.drive"]),
        input=json.dumps([step]),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)
    return told


def brought(host: PrivateHost) -> str:
    return host.sh("find /tmp -path '/tmp/mxc-ops-*'")


def test_a_folder_that_another_user_made_before_does_not_matter(host: PrivateHost) -> None:
    host.sh(
        f"mkdir /tmp/mxc-ops-{ITEM}; touch /tmp/mxc-ops-{ITEM}/theirs; chown -R 65534 /tmp/mxc-ops-{ITEM}"
    )
    told = push(host, "/run/program")
    assert (told["failed"], told["changed"]) == (False, True), told["said"]
    assert host.seen("/opt/store/k1/p").read_bytes() == PROGRAM
    assert brought(host).split() == [f"/tmp/mxc-ops-{ITEM}", f"/tmp/mxc-ops-{ITEM}/theirs"]


def test_what_a_controller_that_died_has_brought_goes_with_the_next_preparation(host: PrivateHost) -> None:
    old, fresh, theirs = (f"/tmp/mxc-ops-{name}" for name in ("0" * 32, "1" * 32, "theirs"))
    host.sh(f"mkdir {old} {fresh} {theirs}; touch {old}/archive; touch -d '2 hours ago' {old} {theirs}")
    assert host.prep("host", "--item", "bubblewrap.ids.*", "--yes").exit_code == 0
    assert set(brought(host).split()) == {fresh, theirs}


def test_what_cannot_be_brought_there_leaves_nothing(host: PrivateHost) -> None:
    assert push(host, "/run/no-such-program")["failed"]
    assert brought(host) == host.sh("find /opt/store -mindepth 1") == ""
    assert host.receipts() == {}
