"""The whole way for LXC, by the commands: prepared, proved by a container, unchanged, verified, undone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import join, quote
from typing import Any

import pytest

from mxc_ops.prep.receipts import DIRECTORY, Receipt
from tests.conftest import CHECKOUT, User
from tests.images import image
from tests.prep.lxc_host import Host, whole_host
from vm_images.archive import export_image

TOOLS = ("lxc-start", "nft", "ip")
pytestmark = [
    pytest.mark.backend("lxc"),
    pytest.mark.skipif(
        os.geteuid() != 0 or any(shutil.which(name) is None for name in TOOLS),
        reason="needs root, and: apt-get install lxc nftables iproute2",
    ),
]
MXC_OPS = f"cd {CHECKOUT} && {sys.executable} -m mxc_ops.cli"
BEFORE = (
    "ip -o link; ip -o address; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward /etc/subuid /etc/subgid;"
    " find /etc /usr/local /var/lib -xdev"
    # Programs may be compiled for other tests meanwhile; nothing of LXC is among them.
    " -path /var/lib/mxc-ops -prune -o -path /usr/local/lib/mxc-ops/helpers -prune -o -print | sort"
)


@pytest.fixture
def machine() -> Iterator[Host]:
    with whole_host() as made:
        yield made


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Images in files. The one that machines of probes boot is the smallest that can be brought, too."""
    folder = tmp_path_factory.mktemp("exported")
    for name in ("base", "tiny"):
        image(name)
        export_image(name, folder / name)
    return {name: folder / name for name in ("base", "tiny")}


def with_image(path: Path, archive: Path, sha256: str = "") -> Path:
    """Write an inventory of this host, with an image to be brought there; its checksum, unless it is said."""
    digest = sha256 or hashlib.sha256(archive.read_bytes()).hexdigest()
    data = {"mxc_features": ["image"], "mxc_images": {"base": {"source": str(archive), "sha256": digest}}}
    path.write_text(f"hosts = [('@local', {data!r})]\n")
    return path


@pytest.fixture
def inventory(tmp_path: Path, exported: dict[str, Path]) -> Path:
    return with_image(tmp_path / "inventory.py", exported["base"])


def said(machine: Host, command: str) -> subprocess.CompletedProcess[str]:
    return machine.try_run(f"{MXC_OPS} {command} </dev/null 2>&1")


def test_a_host_is_prepared_proved_left_alone_verified_and_taken_back(machine: Host, inventory: Path) -> None:
    before = machine.run(BEFORE)
    prepare = f"prep host --inventory {inventory} --backend lxc --yes"
    first = said(machine, prepare)
    assert first.returncode == 0, first.stdout
    assert "tried out: 8 checks" in first.stdout
    again = said(machine, prepare)
    assert again.returncode == 0 and " changed" not in again.stdout, again.stdout
    doctor = said(machine, "doctor --backend lxc")
    assert doctor.returncode == 0, doctor.stdout
    assert said(machine, "prep verify").returncode == 0
    machine.run("nft flush ruleset")
    drifted = said(machine, "prep verify")
    assert drifted.returncode != 0 and "no NAT" in drifted.stdout, drifted.stdout
    assert said(machine, prepare).returncode == 0
    # One that no package needs: LXC's own wants nftables where there is no iptables.
    tools = {"family": "debian", "packages": ["debootstrap"]}
    made = {"added": ["debootstrap"], "asked": ["debootstrap"]}
    receipt = Receipt("lxc.package.network", "packages.installed", tools, made=made)
    path = f"{DIRECTORY}/{receipt.item}.json"
    machine.run(f"printf %s {quote(receipt.encode())} > {path}")
    refused = said(machine, f"prep undo --item {receipt.item}")
    assert refused.returncode == 1, refused.stdout
    assert "lxc.bridge cannot be taken back without it" in refused.stdout
    assert f"mxc-ops prep undo --item lxc.bridge --item {receipt.item}" in refused.stdout
    machine.run(f"rm {path}")
    undone = said(machine, "prep undo --yes")
    assert undone.returncode == 0, undone.stdout
    assert machine.run(BEFORE) == before


@pytest.mark.parametrize("completed", [True, False])
def test_an_image_whose_successor_did_not_come_is_still_known_as_ours(
    machine: Host, tmp_path: Path, exported: dict[str, Path], completed: bool
) -> None:
    inventory = with_image(tmp_path / "inventory.py", exported["tiny"])
    prepare = f"prep host --inventory {inventory} --backend lxc --item lxc.image.* --yes"
    first = said(machine, prepare)
    assert first.returncode == 0, first.stdout
    with_image(inventory, exported["base"], "0" * 64)
    failed = said(machine, prepare)
    assert failed.returncode == 1 and "failed" in failed.stdout, failed.stdout
    with_image(inventory, exported["tiny"])
    if completed:
        again = said(machine, prepare)
        assert again.returncode == 0, again.stdout
        verified = said(machine, "prep verify")
        assert verified.returncode == 0, verified.stdout
    undone = said(machine, "prep undo --yes")
    assert undone.returncode == 0, undone.stdout
    assert machine.run("ls -d /var/lib/mxc-ops/images/* 2>/dev/null || true") == ""


def said_to(user: User, machine: Host, command: str) -> dict[str, Any]:
    """What is reported of the host to somebody who has no rights there."""
    rights = ["--reuid", str(user.uid), "--regid", str(user.gid), "--clear-groups"]
    environment = {**user.environment, "PYTHONPATH": f"{user.tree}:{user.tree}/site-packages"}
    settings = [f"{name}={value}" for name, value in environment.items()]
    argv = ["setpriv", *rights, "env", "-i", *settings, str(user.tree / "bin/mxc-ops"), *command.split()]
    return json.loads(machine.try_run(f"{join(argv)} --json").stdout.splitlines()[-1])


def test_what_a_user_may_not_read_is_neither_drift_nor_a_change_that_is_due(
    machine: Host, inventory: Path, as_user: User
) -> None:
    site = next(path for path in sys.path if path.endswith("site-packages"))
    machine.run(f"mount --bind {site} {as_user.tree}/site-packages")
    prepared = said(machine, f"prep host --inventory {inventory} --backend lxc --yes")
    assert prepared.returncode == 0, prepared.stdout
    for command in ("prep verify", "prep host --backend lxc --item lxc.bridge --item lxc.sysctl.*"):
        report = said_to(as_user, machine, command)
        (told,) = report["hosts"]
        states = {item["identifier"]: item["state"] for item in told["items"]}
        assert (report["exitCode"], told["state"]) == (4, "needs privilege"), told
        assert states.pop("lxc.bridge") == "needs privilege"
        assert set(states.values()) <= {"as recorded", "as wanted"}, states
        assert told["problem"].startswith("root is needed for: lxc.bridge; ")
        assert f"mxc-ops {' '.join(command.split()[:2])}" in told["fix"]
    assert said_to(as_user, machine, "prep undo")["exitCode"] == 4
    machine.run("ip link set dev mxcbr0 down")
    assert said_to(as_user, machine, "prep verify")["exitCode"] == 7
