"""The ruleset of policies of every kind, as it was recorded.

`MXC_UPDATE_GOLDEN=1` rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.network.layout import Layout, LocalLayout, RoutedLayout
from backends.network.policy import Direction, NetworkPolicy, Peer, PortMapping, Ports, Protocol, Rule
from backends.network.ruleset import ruleset

GOLDEN = Path(__file__).parent / "network"
LOCAL = LocalLayout("uplink", ("192.0.2.15", "fd00::15"), ("192.0.2.1", "fd00::1"))
NAMES = LocalLayout("uplink", LOCAL.own, LOCAL.host_addresses, 3128, 3129, 3053)
ROUTED = RoutedLayout("tap0", "uplink", ("10.0.2.15", "fd02::15"), ("10.0.2.2", "fd02::2"), ("192.0.2.1",))
ROUTED_NAMES = RoutedLayout(
    *("tap0", "", ROUTED.guest, ROUTED.gateway, (), 3128, 3129, 3053, (80, 443), (("tcp", 8080),))
)


def deny(at: int, to: tuple[Peer, ...] = (), ports: tuple[Ports, ...] = ()) -> Rule:
    return Rule(f"egress.deny.{at}", f"/network/egress/deny/{at}", to, ports)


def allow(at: int, to: tuple[Peer, ...] = (), ports: tuple[Ports, ...] = ()) -> Rule:
    return Rule(f"egress.allow.{at}", f"/network/egress/allow/{at}", to, ports)


TO_SANDBOX = PortMapping("mapping.0", "/m/0", Direction.TO_SANDBOX, Protocol.TCP, "127.0.0.1", 8000, 5000)
ONE = allow(0, (Peer("198.51.100.0/24"), Peer("2001:db8::/32")), (Ports(Protocol.TCP, 443),))
EXCEPT = deny(0, (Peer("10.0.0.0/8", ("10.1.0.0/16", "10.2.3.4")), Peer("fc00::/7", ("fd00:1::/32",))))
PORTS = (
    *(Ports(Protocol.TCP, 8000, 8080), Ports(Protocol.TCP, 8081), Ports(Protocol.UDP)),
    *(Ports(Protocol.ANY, 53),),
)
CASES: dict[str, tuple[NetworkPolicy, Layout]] = {
    "no-rules": (NetworkPolicy(), LOCAL),
    "one-allowed": (NetworkPolicy(allow=(ONE,)), LOCAL),
    "default-allow": (NetworkPolicy(egress_allowed=True, deny=(EXCEPT,)), LOCAL),
    "names-only": (NetworkPolicy(), LocalLayout(proxy_port=3128, redirect_port=3129, dns_port=3053)),
    "names-and-rules": (NetworkPolicy(deny=(EXCEPT,), allow=(ONE,)), NAMES),
    "icmp": (NetworkPolicy(deny=(deny(0, (), (Ports(Protocol.ICMP),)),), allow=(allow(0),)), LOCAL),
    "port-ranges": (NetworkPolicy(allow=(allow(0, (Peer("::ffff:198.51.100.0/120"),), PORTS),)), LOCAL),
    "routed": (NetworkPolicy(egress_allowed=True, deny=(EXCEPT,)), ROUTED),
    "routed-names-and-ports": (NetworkPolicy(mappings=(TO_SANDBOX,)), ROUTED_NAMES),
}


@pytest.mark.parametrize("name", CASES)
def test_the_ruleset_is_as_recorded(name: str) -> None:
    policy, layout = CASES[name]
    text = ruleset(policy, layout, generation=3).text
    golden = GOLDEN / f"{name}.nft"
    if os.environ.get("MXC_UPDATE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_record_is_of_a_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


def test_the_same_input_is_the_same_text() -> None:
    policy = NetworkPolicy(allow=(Rule("egress.allow.0", "", (Peer("10.0.0.0/8"), Peer("10.0.0.0/7"))),))
    assert ruleset(policy, NAMES, generation=5) == ruleset(policy, NAMES, generation=5 + (1 << 16))


def test_a_local_sandbox_needs_no_rule_for_its_mappings() -> None:
    assert "mapping.0" not in ruleset(NetworkPolicy(mappings=(TO_SANDBOX,)), LOCAL).counters
