"""The probes of LXC, on a host of the test's own: containers really start, what is missing is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from backends.lxc.needs import ADDRESS, BRIDGE, TABLE
from backends.needs import Health
from mxc_ops.prep.rules.network import bring_up
from tests.conftest import CHECKOUT, User
from tests.e2e.commands import wait_until
from tests.prep.lxc_host import WHOLE_HOST, small_root

pytestmark = pytest.mark.backend("lxc")
needs_lxc = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(name) is None for name in ("lxc-start", "newuidmap", "nft", "ip")),
    reason="needs root, and: apt-get install lxc uidmap nftables iproute2",
)

PROBE = """
import json, sys
from dataclasses import asdict
from backends.lxc.probe import probe
for found in probe(sys.argv[2:], sys.argv[1]):
    print(json.dumps({**asdict(found), "health": found.health.value}))
"""
HOST = f"""
{WHOLE_HOST}
for file in /etc/subuid /etc/subgid; do echo root:100000:65536 > $file; done
echo 1 > /proc/sys/net/ipv4/ip_forward
{bring_up(BRIDGE, ADDRESS, TABLE)}
"""
FEW_IDS = "echo root:100000:1000 > /etc/subgid"
Told = Mapping[str, Mapping[str, str]]


@pytest.fixture
def image() -> Iterator[Path]:
    """An image with little inside, where everybody can reach it."""
    folder = Path(tempfile.mkdtemp(prefix="mxc-ops-image-"))
    folder.chmod(0o755)
    small_root(folder / "rootfs")
    yield folder
    shutil.rmtree(folder)


def told(image: Path, change: str = "", features: Sequence[str] = ()) -> Told:
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
            image,
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


def left_behind() -> set[str]:
    groups = {
        f"{place}/{name}"
        for place, names, _ in os.walk("/sys/fs/cgroup")
        for name in names
        if name.startswith("mxc-ops-trial-")
    }
    folders = [Path("/run"), Path("/run/lxc/lock/run")]
    return groups | {str(path) for folder in folders for path in folder.glob("mxc-ops-trial-*")}


def wait_until_nothing_stays_but(before: set[str]) -> None:
    """Others on this machine may be trying containers out as well; what ours leaves stays."""
    wait_until(lambda: left_behind() <= before, "something of the trial stays", 60)


@needs_lxc
def test_a_prepared_host_is_ready_and_nothing_of_the_trial_stays(image: Path) -> None:
    before = left_behind()
    contents = sorted((str(path), path.lstat().st_mtime_ns) for path in image.rglob("*"))
    probes = told(image)
    assert {name: probe["health"] for name, probe in probes.items()} == dict.fromkeys(
        ("lxc.tools", "lxc.ids", "lxc.container", "lxc.limits", "lxc.bridge", "lxc.nat"), Health.OK.value
    ), probes
    assert "its root being uid 100000" in probes["lxc.container"]["seen"]
    wait_until_nothing_stays_but(before)
    assert sorted((str(path), path.lstat().st_mtime_ns) for path in image.rglob("*")) == contents


@needs_lxc
@pytest.mark.parametrize(
    ("change", "identifier", "health", "seen"),
    [
        (FEW_IDS, "lxc.ids", "failed", "root has no 65536 ids"),
        (FEW_IDS, "lxc.container", "failed", "root has no 65536 ids"),
        (FEW_IDS, "lxc.limits", "failed", "not tried"),
        (f"ip link delete dev {BRIDGE}", "lxc.bridge", "warning", f"no bridge {BRIDGE}"),
        (f"ip link set dev {BRIDGE} down", "lxc.bridge", "warning", f"{BRIDGE} is down"),
        (f"ip address flush dev {BRIDGE}", "lxc.bridge", "warning", f"{BRIDGE} has no address"),
        (f"nft flush table inet {TABLE}", "lxc.nat", "warning", "nftables has no NAT"),
        ("echo 0 > /proc/sys/net/ipv4/ip_forward", "lxc.nat", "warning", "net.ipv4.ip_forward is off"),
        (
            "PATH=/usr/sbin:/sbin",
            "lxc.tools",
            "failed",
            "lxc-start, lxc-attach, lxc-stop, lxc-info not found",
        ),
    ],
)
def test_what_is_missing_is_named_with_its_fix(
    image: Path, change: str, identifier: str, health: str, seen: str
) -> None:
    found = told(image, change)[identifier]
    assert (found["health"], found["privilege"]) == (health, "root"), found
    assert seen in found["seen"]
    assert found["fix"] == "mxc-ops prep host --backend lxc --yes"


@needs_lxc
@pytest.mark.parametrize(
    ("change", "feature", "identifier", "seen"),
    [
        (f"ip link set dev {BRIDGE} down", "network", "lxc.bridge", f"{BRIDGE} is down"),
        (f"nft flush table inet {TABLE}", "network", "lxc.nat", "nftables has no NAT"),
        (
            "test ! -e /proc/sys/net/bridge || echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables",
            *("network", "lxc.network", "net.bridge.bridge-nf-call-iptables"),
        ),
        (
            "mkdir -p /run/off && echo 0 > /run/off/it && mount --bind /run/off/it"
            " /proc/sys/user/max_user_namespaces",
            *("rootless", "lxc.rootless", "user.max_user_namespaces is 0"),
        ),
    ],
)
def test_what_a_feature_lacks_that_was_asked_for_is_a_failure(
    image: Path, change: str, feature: str, identifier: str, seen: str
) -> None:
    found = told(image, change, [feature])[identifier]
    assert found["health"] == Health.FAILED.value, found
    assert seen in found["seen"]
    assert found["fix"].startswith("mxc-ops prep host --backend lxc ")


@needs_lxc
def test_without_an_image_the_container_is_not_tried_and_the_place_is_named(image: Path) -> None:
    probes = told(image / "nothing")
    assert probes["lxc.container"]["health"] == Health.FAILED.value
    assert f"there is no image at {image}/nothing" in probes["lxc.container"]["seen"]
    assert probes["lxc.bridge"]["health"] == Health.OK.value


@needs_lxc
def test_a_container_that_does_not_start_is_told_in_lxcs_words_and_taken_away(image: Path) -> None:
    before = left_behind()
    (image / "rootfs/bin/sleep").unlink()
    found = told(image)["lxc.container"]
    assert found["health"] == Health.FAILED.value
    assert "No such file or directory" in found["seen"], found
    wait_until_nothing_stays_but(before)


@needs_lxc
def test_a_limit_that_does_not_hold_is_noticed(image: Path) -> None:
    """A host without the control groups that would hold them."""
    hidden = "umount -R /sys/fs/cgroup/memory && umount -R /sys/fs/cgroup/pids"
    if not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("needs control groups v1, whose controllers can be taken away one by one")
    found = told(image, hidden)["lxc.limits"]
    assert found["health"] == Health.WARNING.value, found
    assert found["seen"].startswith("no limit of memory or pids holds inside")


def test_a_user_is_told_what_takes_roots_rights(as_user: User) -> None:
    done = as_user([as_user.python, "-c", PROBE, "/nothing"])
    assert done.returncode == 0, done.stderr
    for identifier in ("lxc.container", "lxc.limits"):
        found = _read(done.stdout)[identifier]
        assert found["health"] == Health.WARNING.value
        assert "root's rights" in found["seen"]
        assert (found["fix"], found["privilege"]) == ("mxc-ops doctor --backend lxc", "root")
