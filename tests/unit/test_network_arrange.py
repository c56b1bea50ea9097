"""Where sandboxes are on a bridge: every place is an address of its own, wherever the bridge's own lies."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Interface, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.frozen import replace
from backends.network.arrange import Given, after_rules, before_rules, bridge_places
from backends.network.facts import Bridge
from backends.network.plan import UPLINK, plan_network
from backends.network.steps import Address, Route
from tests.network_samples import FACTS, RULES

BRIDGES = ("10.99.0.1/24", "10.99.0.7/24", "10.99.0.254/24", "10.187.0.1/22", "10.187.3.254/22")


def bridged(address: str, address6: str = "") -> Bridge:
    return Bridge("mxcbr0", address, address6)


def places(bridge: Bridge) -> list[list[IPv4Interface | IPv6Interface]]:
    """The addresses of every sandbox that fits."""
    plan = plan_network(RULES, replace(FACTS, bridge=bridge), root=True, routed=False)
    first, count = bridge_places(bridge)
    found: list[list[IPv4Interface | IPv6Interface]] = []
    for number in range(first, first + count):
        its = Given(number, "outside")
        steps = [*before_rules(plan, its), *after_rules(plan, its)]
        addresses = [step for step in steps if isinstance(step, Address)]
        assert {step.name for step in addresses} == {UPLINK}
        gateways = [step.gateway for step in steps if isinstance(step, Route)]
        assert gateways == [str(ip_interface(one).ip) for one in (bridge.address, bridge.address6) if one]
        found.append([ip_interface(f"{step.address}/{step.prefix}") for step in addresses])
    return found


def check(bridge: IPv4Interface | IPv6Interface, taken: list[IPv4Interface | IPv6Interface]) -> None:
    addresses = {one.ip for one in taken}
    assert len(addresses) == len(taken)
    assert {one.network for one in taken} == {bridge.network}
    edges = {bridge.network.network_address, bridge.network.broadcast_address}
    assert addresses & {bridge.ip, *edges} == set()


@pytest.mark.parametrize("address", BRIDGES)
def test_every_usable_address_but_the_bridges_is_one_sandboxs(address: str) -> None:
    bridge = ip_interface(address)
    taken = [only for [only] in places(bridged(address))]
    check(bridge, taken)
    assert {one.ip for one in taken} == {*bridge.network.hosts()} - {bridge.ip}


@pytest.mark.parametrize("address6", ["fdb5:6d78:62::1/64", "fdb5:6d78:62::7/64", "fdb5:6d78:62::ffff/64"])
def test_each_has_one_of_the_other_family_too(address6: str) -> None:
    both = places(bridged("10.99.0.254/24", address6))
    check(ip_interface("10.99.0.254/24"), [four for four, _ in both])
    check(ip_interface(address6), [six for _, six in both])


@given(prefix=st.integers(24, 29), where=st.integers(min_value=0))
def test_wherever_the_bridges_own_address_lies(prefix: int, where: int) -> None:
    size = 2 ** (32 - prefix)
    address = f"10.99.0.{1 + where % (size - 2)}/{prefix}"
    check(ip_interface(address), [only for [only] in places(bridged(address))])
