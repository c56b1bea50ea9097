"""The doctor's word on networks: on hosts of the test's own that are prepared for them, and then broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from backends.needs import Health
from backends.network.facts import BRIDGE
from backends.network.needs import ADDRESS, ADDRESS6, TABLE
from mxc_ops.prep.rules.bridge import bring_up
from tests.conftest import CHECKOUT
from tests.prep.lxc_host import WHOLE_HOST

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
pytestmark = [
    pytest.mark.backend("bubblewrap"),
    pytest.mark.skipif(
        os.geteuid() != 0 or any(shutil.which(name, path=PATH) is None for name in ("nft", "ip", "pasta")),
        reason="needs root, and: apt-get install nftables iproute2 passt",
    ),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="needs /dev/net/tun"),
]

PROBE = """
import json, sys
from dataclasses import asdict
from backends.network.probe import network_probes
backend, *features = sys.argv[1:]
for found in network_probes(backend, features, routed=backend == "vm"):
    print(json.dumps({**asdict(found), "health": found.health.value}))
"""
# A way out in both families, where nobody is (RFC 5737, RFC 3849).
HOST = f"""
{WHOLE_HOST}
mkdir -p /etc/mxc-ops
echo '{{"schemaVersion": 1, "uidRange": {{"first": 1900000000, "count": 4096}}}}' > /etc/mxc-ops/host.json
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range
{bring_up(BRIDGE, ADDRESS, ADDRESS6, TABLE)}
ip link add name out type veth peer name nobody
ip link set nobody up
ip link set out up
ip address add 198.51.100.1/24 dev out
ip address add 2001:db8::1/64 dev out nodad
ip route add default via 198.51.100.2
ip route add default via 2001:db8::2
"""
FIX = "mxc-ops prep host --backend {} --feature network --yes"
NO_TUN = "mount -t tmpfs tmpfs /media; mknod -m 600 /media/tun c 10 200; mount --bind /media/tun /dev/net/tun"
NO_HELPER = (
    "for name in pasta slirp4netns; do"
    " if found=$(command -v $name); then mount --bind /dev/null $(readlink -f $found); fi; done"
)
NO_PASTA = "mount --bind /dev/null $(readlink -f $(command -v pasta))"
Told = Mapping[str, Mapping[str, str]]


def run(change: str, argv: Sequence[str], after: str = "") -> subprocess.CompletedProcess[str]:
    """A program of Python's on such a host, after a change to it; `after`: what the shell does then."""
    inside = f'{HOST}{change}\n"$@"\n{after}'
    return subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", inside, "sh", sys.executable, *argv],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def told(change: str = "", features: Sequence[str] = ("network",), backend: str = "bubblewrap") -> Told:
    done = run(change, ["-c", PROBE, backend, *features])
    assert done.returncode == 0, done.stderr
    probes = [json.loads(line) for line in done.stdout.splitlines()]
    return {found["identifier"].removeprefix(f"{backend}.network."): found for found in probes}


@pytest.mark.parametrize("backend", ["bubblewrap", "lxc", "vm"])
def test_on_a_prepared_host_root_and_users_have_a_network_in_both_families(backend: str) -> None:
    probes = told(backend=backend)
    assert {name: probe["health"] for name, probe in probes.items()} == dict.fromkeys(
        ("caller", "unprivileged", "table"), Health.OK.value
    ), probes
    assert "the filtering proxy's; IPv4 and IPv6 out by the host's bridge mxcbr0" in probes["caller"]["seen"]
    assert "IPv4 and IPv6 out by " in probes["unprivileged"]["seen"]
    assert "pasta" in probes["unprivileged"]["seen"]


@pytest.mark.parametrize(
    ("change", "name", "seen", "fix"),
    [
        (f"ip link delete dev {BRIDGE}", "caller", f"no bridge {BRIDGE}", FIX),
        (f"ip address flush dev {BRIDGE}", "caller", f"no bridge {BRIDGE}", FIX),
        ("mount --bind /dev/null $(command -v nft)", "caller", "no nft", FIX),
        ("mount --bind /dev/null $(command -v nft)", "unprivileged", "no nft", FIX),
        ("for key in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 0 > /proc/sys/net/$key; done",
         "caller", "forwarding is off", FIX),
        (NO_HELPER, "unprivileged", "no pasta", FIX),
        ("ip route delete default; ip -6 route delete default", "unprivileged", "has no default route",
         "ip route; ip -6 route"),
        (NO_TUN, "unprivileged", "could not be made", FIX),
        ("echo 1 0 > /proc/sys/net/ipv4/ping_group_range", "unprivileged", "echo requests are not sent", FIX),
        (f"nft flush chain inet {TABLE} postrouting", "table", "translates nothing", FIX),
        (f"nft delete chain inet {TABLE} input", "table", "lets sandboxes reach the host", FIX),
        ("nft flush ruleset", "table", "translates nothing that leaves and lets sandboxes", FIX),
        ("mount -t tmpfs none /usr/local/lib/mxc-ops", "caller", "launcher is not built", FIX),
    ],
)  # fmt: skip
def test_what_a_network_lacks_that_was_asked_for_is_a_failure_with_its_fix(
    change: str, name: str, seen: str, fix: str
) -> None:
    found = told(change)[name]
    assert (found["health"], found["fix"]) == ("failed", fix.format("bubblewrap")), found
    assert seen in found["seen"]


@pytest.mark.parametrize(
    ("change", "name", "seen"),
    [
        (f"ip link delete dev {BRIDGE}", "caller", f"not prepared for: no bridge {BRIDGE}"),
        ("mount --bind /dev/null $(command -v nft)", "unprivileged", "not prepared for: no nft"),
        (NO_HELPER, "unprivileged", "not prepared for: no pasta"),
        ("echo 1 0 > /proc/sys/net/ipv4/ping_group_range", "unprivileged", "echo requests are not sent"),
        ("ip route delete default; ip -6 route delete default", "unprivileged", "no default route"),
    ],
)
def test_a_host_that_was_not_prepared_for_networks_is_no_fault_unless_they_are_asked_for(
    change: str, name: str, seen: str
) -> None:
    probes = told(change, features=())
    assert {found["health"] for found in probes.values()} == {"ok"}
    assert seen in probes[name]["seen"]


@pytest.mark.skipif(
    shutil.which("slirp4netns") is None, reason="needs slirp4netns: apt-get install slirp4netns"
)
def test_without_pasta_slirp4netns_connects_a_user() -> None:
    found = told(NO_PASTA)["unprivileged"]
    assert (found["health"], found["seen"].rpartition("/")[2]) == ("ok", "slirp4netns"), found


def test_nothing_of_what_was_tried_is_left() -> None:
    shown = f"ip -o link show master {BRIDGE}; nft list tables; ip -o link show type veth | wc -l"
    done = run("", ["-c", PROBE, "bubblewrap", "network"], f"echo; {shown}")
    assert done.stdout.partition("\n\n")[2].splitlines() == [f"table inet {TABLE}", "2"], done.stderr


def test_the_command_says_so_by_its_exit_code() -> None:
    asked = ["-m", "mxc_ops.cli", "doctor", "--backend", "bubblewrap", "--json"]
    broken = f"ip link delete dev {BRIDGE}"
    without, with_it = run(broken, asked), run(broken, [*asked, "--feature", "network"])
    assert without.returncode != 1, without.stdout
    failed = [
        probe["identifier"] for probe in json.loads(with_it.stdout)["probes"] if probe["health"] == "failed"
    ]
    assert (with_it.returncode, failed) == (1, ["bubblewrap.network.caller"]), with_it.stdout
