"""The probes of LXC, on a host of the test's own: containers really start, what is missing is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

import pytest

from backends.needs import Health
from tests.conftest import CHECKOUT
from tests.prep.lxc_host import WHOLE_HOST

pytestmark = pytest.mark.backend("lxc")
needs_lxc = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(name) is None for name in ("lxc-start", "nft", "ip")),
    reason="needs root, and: apt-get install lxc nftables iproute2",
)

PROBE = """
import json, sys
from dataclasses import asdict
from backends.lxc.probe import probe
for found in probe(sys.argv[1:]):
    print(json.dumps({**asdict(found), "health": found.health.value}))
"""
HOST = f"""
{WHOLE_HOST}
mkdir -p /etc/mxc-ops
echo '{{"schemaVersion": 1, "uidRange": {{"first": 1900000000, "count": 4096}}}}' > /etc/mxc-ops/host.json
"""
Told = Mapping[str, Mapping[str, str]]


def told(change: str = "", features: Sequence[str] = ()) -> Told:
    """What the probes say on such a host, after a change to it."""
    inside = f'{HOST}{change}\nexec "$@"'
    done = subprocess.run(
        [
            "unshare",
            "--net",
            "--mount",
            "sh",
            "-c",
            inside,
            "sh",
            sys.executable,
            "-c",
            PROBE,
            *features,
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return _read(done.stdout)


def _read(output: str) -> Told:
    return {found["identifier"]: found for found in map(json.loads, output.splitlines())}


@needs_lxc
def test_a_prepared_host_is_ready() -> None:
    probes = told(features=["sessions"])
    networks = ("network.caller", "network.unprivileged")
    names = ("tools", "launcher", "ids", "limits", *networks, "sessions")
    assert {name: probe["health"] for name, probe in probes.items()} == dict.fromkeys(
        (f"lxc.{name}" for name in names), Health.OK.value
    ), probes


@needs_lxc
@pytest.mark.parametrize(
    ("change", "identifier", "health", "seen"),
    [
        ("rm /etc/mxc-ops/host.json", "lxc.ids", "failed", "records no range"),
        ("mount -t tmpfs none /usr/local/lib/mxc-ops", "lxc.launcher", "failed", "not built"),
        ("mount --bind /dev/null /usr/bin/lxc-start", "lxc.tools", "failed", "LXC is not installed"),
    ],
)
def test_what_is_missing_is_named_with_its_fix(change: str, identifier: str, health: str, seen: str) -> None:
    found = told(change)[identifier]
    assert (found["health"], found["privilege"]) == (health, "root"), found
    assert seen in found["seen"]
    assert found["fix"] == "mxc-ops prep host --backend lxc --yes"


@needs_lxc
@pytest.mark.parametrize(
    ("change", "feature", "identifier", "seen"),
    [
        (
            "mkdir -p /run/off && echo 0 > /run/off/it && mount --bind /run/off/it"
            " /proc/sys/user/max_user_namespaces",
            *("rootless", "lxc.rootless", "user.max_user_namespaces is 0"),
        ),
        ("mount -t tmpfs none /usr/local/lib/mxc-ops", "sessions", "lxc.sessions", "no agent"),
    ],
)
def test_what_a_feature_lacks_that_was_asked_for_is_a_failure(
    change: str, feature: str, identifier: str, seen: str
) -> None:
    found = told(change, [feature])[identifier]
    assert found["health"] == Health.FAILED.value, found
    assert seen in found["seen"]
    assert found["fix"].startswith("mxc-ops prep host --backend lxc ")
