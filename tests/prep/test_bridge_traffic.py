"""What a bridge of ours lets through, and whether a host forwards IPv6: on hosts of the test's own."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator

import pytest

from backends.network.facts import BRIDGE
from backends.network.needs import ADDRESS, ADDRESS6, TABLE
from tests.prep.lxc_host import Host, host, network

pytestmark = [
    pytest.mark.backend("lxc"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to make network namespaces"),
    pytest.mark.skipif(
        shutil.which("ip") is None or shutil.which("nft") is None,
        reason="needs ip and nft: apt-get install iproute2 nftables",
    ),
]

OPERATION = "network.bridge"
UNATTENDED = {
    "bridge": BRIDGE,
    "address": ADDRESS,
    "address6": ADDRESS6,
    "table": TABLE,
    "manager": "none",
}
ATTACHED = "10.187.0.2"
# TEST-NET-2 (RFC 5737): between the host and a machine that knows nothing of the bridge.
HOST_OUTSIDE, OUTSIDE = "198.51.100.1", "198.51.100.2"
HOST_OUTSIDE6, OUTSIDE6 = "2001:db8::1", "2001:db8::2"
ATTACHED6 = "fdb5:6d78:62::2"
IPV6 = "/proc/sys/net/ipv6/conf"
FORWARDS_IPV6 = f"echo 1 > {IPV6}/all/forwarding"


@pytest.fixture
def machine() -> Iterator[Host]:
    with host() as made:
        yield made


# --- whether the host forwards IPv6

FORWARDING = {"key": "net.ipv6.conf.all.forwarding", "wanted": "1", "kernel_default": "0"}
WAY_OUT = (
    "ip link add name out type veth peer name nobody; ip link set nobody up; ip link set out up;"
    f" ip address add {HOST_OUTSIDE6}/64 dev out nodad; ip route add default via fe80::1 dev out"
)


@pytest.mark.parametrize(
    ("way_out", "forwards"),
    [
        (WAY_OUT, "1"),
        ("", "0"),
        (f"{WAY_OUT} proto ra expires 1800", "0"),
        (f"{WAY_OUT} proto ra expires 1800; echo 2 > /proc/sys/net/ipv6/conf/out/accept_ra", "1"),
        (f"{WAY_OUT}; ip address add 2001:db8:1::1/64 dev out nodad valid_lft 900 preferred_lft 900", "0"),
    ],
    ids=["by hand", "none", "advertised", "advertised come what may", "an address that was advertised"],
)
def test_ipv6_is_forwarded_where_that_does_not_cost_the_host_its_own(
    machine: Host, way_out: str, forwards: str
) -> None:
    machine.run(f"echo 0 > {IPV6}/all/forwarding; {way_out}")
    route = machine.run("ip -6 route show default")
    decision = machine.decide("network.ipv6_forwarding", FORWARDING)
    assert bool(decision.notice) == (forwards == "0" and bool(way_out))
    if decision.commands:
        machine.apply("network.ipv6_forwarding", FORWARDING)
    assert machine.run(f"cat {IPV6}/all/forwarding").strip() == forwards
    assert machine.run("ip -6 route show default").split()[:5] == route.split()[:5]
    assert not machine.decide("network.ipv6_forwarding", FORWARDING).commands
    if decision.commands:
        assert not machine.undo().refusal
    assert machine.run(f"cat {IPV6}/all/forwarding").strip() == "0"
    assert machine.run("find /etc -type f") == ""


# --- what it is for


@pytest.fixture
def attached(machine: Host) -> Iterator[tuple[Host, Host]]:
    """A machine on the bridge, as a container would be, and one beyond the host that has no route back."""
    machine.run(f"sysctl -qw net.ipv4.ip_forward=1; {FORWARDS_IPV6}")
    machine.apply(OPERATION, UNATTENDED)
    with network() as inside, network() as outside:
        _join(machine, inside, "veth-in", f"master {BRIDGE}")
        inside.run(
            f"ip address add {ATTACHED}/22 dev eth0; ip link set eth0 up;"
            f" ip route add default via 10.187.0.1;"
            f" ip address add {ATTACHED6}/64 dev eth0 nodad; ip route add default via fdb5:6d78:62::1"
        )
        _join(machine, outside, "veth-out", "up")
        machine.run(
            f"ip address add {HOST_OUTSIDE}/24 dev veth-out;"
            f" ip address add {HOST_OUTSIDE6}/64 dev veth-out nodad"
        )
        outside.run(
            f"ip address add {OUTSIDE}/24 dev eth0; ip link set eth0 up;"
            f" ip address add {OUTSIDE6}/64 dev eth0 nodad"
        )
        yield inside, outside


def _join(machine: Host, other: Host, device: str, setting: str) -> None:
    machine.run(
        f"ip link add name {device} type veth peer name eth0 netns {other.process};"
        f" ip link set {device} {setting}; ip link set {device} up"
    )


_SERVE = (
    "import socket; s = socket.create_server(('{address}', 7), family=socket.{family});"
    " print('up', flush=True); print(s.accept()[1][0])"
)
_SEND = (
    "import socket; f, k, p, _, a = socket.getaddrinfo('{address}', 7, type=socket.SOCK_DGRAM)[0];"
    " s = socket.socket(f, k); s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1); s.sendto(b'x', a)"
)
_COUNTED = re.compile(r"counter (\w+) {\s*packets (\d+)")
_CALL = "import socket; socket.create_connection(('{address}', 7), {patience_s})"


def _python(source: str) -> str:
    return f'/usr/bin/python3 -c "{source}"'


def _serve(address: str) -> str:
    family = "AF_INET6" if ":" in address else "AF_INET"
    return _python(_SERVE.format(address=address, family=family))


@pytest.mark.parametrize(("address", "own"), [(OUTSIDE, HOST_OUTSIDE), (OUTSIDE6, HOST_OUTSIDE6)])
def test_who_is_attached_reaches_other_networks_under_the_hosts_address(
    attached: tuple[Host, Host], address: str, own: str
) -> None:
    inside, outside = attached
    with outside.popen(_serve(address)) as server:
        assert server.stdout is not None and server.stdout.readline() == "up\n"
        inside.run(_python(_CALL.format(address=address, patience_s=20)))
        assert server.stdout.readline() == f"{own}\n"


@pytest.mark.parametrize("address", ["10.187.0.1", HOST_OUTSIDE, "fdb5:6d78:62::1", HOST_OUTSIDE6])
def test_who_is_attached_does_not_reach_the_host_at_any_of_its_addresses(
    attached: tuple[Host, Host], machine: Host, address: str
) -> None:
    inside, _ = attached
    with machine.popen(_serve(address)) as server:
        assert server.stdout is not None and server.stdout.readline() == "up\n"
        assert inside.try_run(_python(_CALL.format(address=address, patience_s=1))).returncode != 0
        # It is our table that kept it out, and nothing else: without it the host is reached.
        machine.run(f"nft flush chain inet {TABLE} input")
        inside.run(_python(_CALL.format(address=address, patience_s=20)))
        assert server.stdout.readline().strip() in (ATTACHED, ATTACHED6)


@pytest.mark.parametrize("address", ["10.187.0.1", "10.187.3.255", "fdb5:6d78:62::1", "ff02::1%eth0"])
def test_what_needs_no_connection_does_not_reach_the_host_either(
    attached: tuple[Host, Host], machine: Host, address: str
) -> None:
    inside, _ = attached
    machine.run(
        f"nft add counter inet {TABLE} sent; nft add counter inet {TABLE} arrived;"
        f" nft insert rule inet {TABLE} input iifname {BRIDGE} udp dport 7 counter name sent;"
        f" nft add rule inet {TABLE} input iifname {BRIDGE} udp dport 7 counter name arrived"
    )
    inside.run(_python(_SEND.format(address=address)))
    counters = machine.run(f"nft list counters table inet {TABLE}")
    packets = {name: int(count) for name, count in _COUNTED.findall(counters)}
    assert packets == {"sent": 1, "arrived": 0}


def test_neighbours_of_the_host_do_not_reach_who_is_attached(
    attached: tuple[Host, Host], machine: Host
) -> None:
    inside, outside = attached
    outside.run(f"ip route add 10.187.0.0/22 via {HOST_OUTSIDE}")
    with inside.popen(_serve(ATTACHED)) as server:
        assert server.stdout is not None and server.stdout.readline() == "up\n"
        assert outside.try_run(_python(_CALL.format(address=ATTACHED, patience_s=1))).returncode != 0
        # It is our table that kept them out, and nothing else: without it they get in.
        machine.run(f"nft delete table inet {TABLE}")
        outside.run(_python(_CALL.format(address=ATTACHED, patience_s=20)))
        assert server.stdout.readline() == f"{OUTSIDE}\n"


def test_what_others_drop_is_told_with_the_command_that_lets_it_through(
    attached: tuple[Host, Host], machine: Host
) -> None:
    inside, outside = attached
    machine.run(
        "nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'"
    )
    decision = machine.decide(OPERATION, UNATTENDED)
    assert not decision.commands and not decision.refusal
    with outside.popen(_serve(OUTSIDE)) as server:
        assert server.stdout is not None and server.stdout.readline() == "up\n"
        assert inside.try_run(_python(_CALL.format(address=OUTSIDE, patience_s=1))).returncode != 0
        machine.run(decision.notice.rpartition("through: ")[2])
        inside.run(_python(_CALL.format(address=OUTSIDE, patience_s=20)))
        assert server.stdout.readline() == f"{HOST_OUTSIDE}\n"
