"""Policies that no ruleset can hold, and names that would be more than names."""

from __future__ import annotations

import pytest

from backends.errors import PolicyRefused
from backends.network.layout import LocalLayout
from backends.network.policy import NetworkPolicy, Peer, Rule
from backends.network.ruleset import ruleset

LOCAL = LocalLayout("uplink")


def _many(count: int) -> tuple[str, ...]:
    return tuple(f"10.{number >> 8}.{number & 255}.1" for number in range(count))


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (Rule("egress.deny.0", "/d/0", (Peer("10.0.0.0/8", _many(256)),)), "network_exceptions"),
        (Rule("egress.deny.0", "/d/0", (Peer("10.0.0.1/8"),)), "network_address"),
        (Rule("egress.deny.0", "/d/0", (Peer("10.0.0.0/8", ("example.test",)),)), "network_address"),
        (Rule("egress.deny.0", "/d/0", (*map(Peer, _many(65_536)), Peer("203.0.113.5"))), "network_size"),
    ],
    ids=["exceptions", "host bits", "name", "size"],
)
def test_what_cannot_be_held_is_refused_at_its_rule(rule: Rule, code: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        ruleset(NetworkPolicy(deny=(rule,)), LOCAL)
    (problem,) = refused.value.problems
    assert (problem.code, problem.path) == (code, "/d/0")


def test_as_many_as_may_be_are_held() -> None:
    exceptions = Rule("egress.deny.0", "", (Peer("10.0.0.0/8", _many(255)),))
    size = Rule("egress.deny.1", "", tuple(map(Peer, _many(65_536 - 256))))
    assert ruleset(NetworkPolicy(deny=(exceptions, size)), LOCAL).counters[0] == "egress.deny.0"


@pytest.mark.parametrize(
    "name",
    ["output", "invalid", "a b.c", 'x.y" log', "egress.default", "egress.x;", "a." + "b" * 100, "a.b\n"],
)
def test_names_that_are_more_than_names_are_no_rules(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        ruleset(NetworkPolicy(allow=(Rule(name, ""),)), LOCAL)


@pytest.mark.parametrize("interface", ["lo", 'x" accept', "a" * 16, "x\n"])
def test_interfaces_that_are_more_than_names_are_none(interface: str) -> None:
    with pytest.raises(ValueError, match="interface"):
        ruleset(NetworkPolicy(), LocalLayout(interface))
