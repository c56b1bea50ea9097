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

from backends.network.facts import BRIDGE
from backends.network.needs import ADDRESS, TABLE
from mxc_ops.prep.receipts import DIRECTORY, Receipt
from tests.conftest import CHECKOUT, User
from tests.images import image
from tests.prep.lxc_host import EARLIER, Host, whole_host
from vm_images.archive import export_image

TOOLS = ("lxc-start", "nft", "ip")
pytestmark = [
    pytest.mark.backend("lxc"),
    pytest.mark.skipif(
        os.geteuid() != 0 or any(shutil.which(name) is None for name in TOOLS),
        reason="needs root, and: apt-get install lxc nftables iproute2",
    ),
]
FORWARD = "/proc/sys/net/ipv4/ip_forward"
OUT = "veth-out"
# A host with a way out, which a user's network copies; nobody is there.
LEADS_OUT = (
    f"ip link add name {OUT} type veth peer name nobody; ip address add 198.51.100.1/24 dev {OUT};"
    f" ip link set nobody up; ip link set {OUT} up; ip route add default via 198.51.100.2"
)
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
    prepare = f"prep host --inventory {inventory} --backend lxc --feature network --feature image --yes"
    machine.run(LEADS_OUT)
    first = said(machine, prepare)
    assert first.returncode == 0, first.stdout
    assert "tried out: 9 checks" in first.stdout
    again = said(machine, prepare)
    assert again.returncode == 0 and " changed" not in again.stdout, again.stdout
    doctor = said(machine, "doctor --backend lxc --feature network")
    assert doctor.returncode == 0, doctor.stdout
    assert said(machine, "prep verify").returncode == 0
    machine.run("nft flush ruleset")
    drifted = said(machine, "prep verify")
    assert drifted.returncode != 0 and "no NAT" in drifted.stdout, drifted.stdout
    assert said(machine, prepare).returncode == 0
    # One that no package needs: LXC's own wants nftables where there is no iptables.
    tools = {"family": "debian", "packages": ["debootstrap"]}
    made = {"added": ["debootstrap"], "asked": ["debootstrap"]}
    receipt = Receipt("lxc.network.package", "packages.installed", tools, made=made)
    path = f"{DIRECTORY}/{receipt.item}.json"
    machine.run(f"printf %s {quote(receipt.encode())} > {path}")
    refused = said(machine, f"prep undo --item {receipt.item}")
    assert refused.returncode == 1, refused.stdout
    assert "lxc.network.bridge cannot be taken back without it" in refused.stdout
    assert f"mxc-ops prep undo --item lxc.network.bridge --item {receipt.item}" in refused.stdout
    machine.run(f"rm {path}")
    undone = said(machine, "prep undo --yes")
    assert undone.returncode == 0, undone.stdout
    machine.run(f"ip link delete dev {OUT}")
    assert machine.run(BEFORE) == before


def test_what_an_earlier_version_made_is_mended_and_taken_back_under_the_names_of_this_one(
    machine: Host,
) -> None:
    bridge, setting = earlier_receipts()
    machine.run(f"echo 0 > {FORWARD}; rm -f {setting.made['path']}")
    before = machine.run(BEFORE)
    machine.run(f"{EARLIER}echo 1 > {FORWARD}; mkdir -p {DIRECTORY}")
    machine.run(f"printf %s {quote(setting.made['text'])} > {setting.made['path']}")
    for receipt in (bridge, setting):
        machine.run(f"printf %s {quote(receipt.encode())} > {DIRECTORY}/{receipt.item}.json")
    drifted = said(machine, "prep verify")
    assert drifted.returncode == 7 and "lxc.network.bridge" in drifted.stdout, drifted.stdout
    # Who needs it as well is no second one who has it recorded.
    prepare = "prep host --backend bubblewrap --feature network --item *.network.bridge --yes"
    mended = said(machine, prepare)
    assert mended.returncode == 0, mended.stdout
    names = machine.run(f"ls {DIRECTORY}").split()
    assert names == ["lxc.network.bridge.json", "lxc.sysctl.ip-forward.json"]
    assert said(machine, "prep verify").returncode == 0
    undone = said(machine, "prep undo --yes")
    assert undone.returncode == 0, undone.stdout
    assert machine.run(BEFORE) == before


def earlier_receipts() -> list[Receipt]:
    """As the version before this one wrote them."""
    arguments = {"bridge": BRIDGE, "address": ADDRESS, "table": TABLE, "manager": "none"}
    ruleset = "\n".join(line for line in EARLIER.partition("END'\n")[2].splitlines() if line != "END")
    made: dict[str, Any] = {"address": ADDRESS, "ruleset": ruleset, "files": {}}
    prior: dict[str, Any] = {"files": {}, "directories": []}
    key = "net.ipv4.ip_forward"
    path = f"/etc/sysctl.d/zz-mxc-ops-{key}.conf"
    text = f"# mxc-ops prep host\n{key} = 1\n"
    return [
        Receipt("lxc.bridge", "network.bridge", arguments, prior, made),
        Receipt(
            "lxc.sysctl.ip-forward",
            "kernel.setting",
            {"key": key, "wanted": "1", "kernel_default": "0"},
            {"value": "0", "text": None, "directories": []},
            {"value": "1", "text": text, "path": path},
        ),
    ]


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
    machine.run(LEADS_OUT)
    features = "--feature network --feature image"
    prepared = said(machine, f"prep host --inventory {inventory} --backend lxc {features} --yes")
    assert prepared.returncode == 0, prepared.stdout
    items = "--item lxc.network.bridge --item lxc.network.sysctl.*"
    for command in ("prep verify", f"prep host --backend lxc --feature network {items}"):
        report = said_to(as_user, machine, command)
        (told,) = report["hosts"]
        states = {item["identifier"]: item["state"] for item in told["items"]}
        assert (report["exitCode"], told["state"]) == (4, "needs privilege"), told
        assert states.pop("lxc.network.bridge") == "needs privilege"
        assert set(states.values()) <= {"as recorded", "as wanted"}, states
        assert told["problem"].startswith("root is needed for: lxc.network.bridge; ")
        assert f"mxc-ops {' '.join(command.split()[:2])}" in told["fix"]
    assert said_to(as_user, machine, "prep undo")["exitCode"] == 4
    machine.run("ip link set dev mxcbr0 down")
    assert said_to(as_user, machine, "prep verify")["exitCode"] == 7
