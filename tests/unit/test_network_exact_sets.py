"""Long lists in the kernel: filled by netlink, or read by nft."""

from __future__ import annotations

import errno
import json
import socket
import struct

import pytest

from backends.network.exact_sets import filling
from backends.network.layout import LocalLayout
from backends.network.matching import MOST_IN_A_TREE
from backends.network.policy import NetworkPolicy, Peer, Rule
from backends.network.ruleset import ruleset
from tests.unit.network_lab import PATIENCE_S, isolated, load, needs_namespaces, run

pytestmark = needs_namespaces
LAYOUT = LocalLayout("uplink", ("192.0.2.15", "fd00::15"), ("192.0.2.1", "fd00::1"))
GATE_MESSAGE = 65_536


def netfilter_says(request: bytes) -> int:
    """The errno that it answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as asking:
        asking.settimeout(PATIENCE_S)
        asking.send(request)
        (error,) = struct.unpack_from("=i", asking.recv(65536), 16)
        return -int(error)


def of_both(policy: NetworkPolicy) -> tuple[int, dict[str, list[str]]]:
    """How many transactions fill the policy's sets; the elements of those that were filled.

    They are those that nft would have read.
    """
    rules = ruleset(policy, LAYOUT)
    requests = list(filling(rules.table, rules.exact))
    assert all(len(request) <= GATE_MESSAGE for request in requests)

    def body() -> tuple[str, list[int], str]:
        load(rules.text)
        whole = run("nft", "-j", "list", "sets")
        run("nft", "delete", "table", "inet", rules.table)
        load(rules.unfilled)
        errors = [netfilter_says(request) for request in requests]
        return whole, errors, run("nft", "-j", "list", "sets")

    whole, errors, filled = isolated(body)
    assert not any(errors)
    assert members(filled) == members(whole)
    return len(requests), {one.name: members(filled)[one.name] for one in rules.exact}


def test_long_lists_are_filled_with_what_nft_would_have_read() -> None:
    """Of each family more than one message has, of several lengths; at the ends of the number range too."""
    ipv4 = [f"10.{n >> 7}.{n % 128 * 2}.0/24" for n in range(4500)] + ["0.0.0.0/8", "255.255.255.255/32"]
    ipv6 = [f"2001:db8:{2 * n:x}::/48" for n in range(2500)] + ["::/16", "ffff::/17"]
    deny = Rule("egress.deny.0", "", tuple(map(Peer, ipv4)))
    allow = Rule("egress.allow.0", "", tuple(map(Peer, ipv6)))
    count, filled = of_both(NetworkPolicy(deny=(deny,), allow=(allow,)))
    assert count > 2
    assert len(filled["egress.deny.0.v4.24"]) == len(filled["egress.deny.0.v6.120"]) == 4500
    assert len(filled["egress.allow.0.v6.48"]) == 2500


def test_hundreds_of_short_sets_are_filled_in_few_transactions() -> None:
    """The networks of a rule can have ninety lengths, and a gate was asked for each."""
    rules = [
        Rule(
            f"egress.allow.{number}",
            "",
            tuple(Peer(f"{number + 1:x}:{n << 1:x}::/{32 + n % 96}") for n in range(300)),
        )
        for number in range(5)
    ]
    count, filled = of_both(NetworkPolicy(allow=tuple(rules)))
    assert len(filled) == 5 * 96
    assert sum(map(len, filled.values())) == 5 * 300
    assert count < 5


@pytest.mark.parametrize("count", [MOST_IN_A_TREE, MOST_IN_A_TREE + 1])
def test_a_list_is_long_from_one_more_on(count: int) -> None:
    allow = Rule("egress.allow.0", "", tuple(Peer(f"10.{n >> 7}.{n % 128 * 2}.0/24") for n in range(count)))
    is_long = count > MOST_IN_A_TREE
    assert of_both(NetworkPolicy(allow=(allow,)))[0] == int(is_long)


def members(listing: str) -> dict[str, list[str]]:
    """The elements of each set."""
    sets = [each["set"] for each in json.loads(listing)["nftables"] if "set" in each]
    return {each["name"]: sorted(map(str, each.get("elem", ()))) for each in sets}


def test_a_list_that_cannot_be_filled_is_an_error() -> None:
    allow = Rule("egress.allow.0", "", tuple(Peer(f"10.{n >> 7}.{n % 128 * 2}.0/24") for n in range(300)))
    rules = ruleset(NetworkPolicy(allow=(allow,)), LAYOUT)
    requests = list(filling(rules.table, rules.exact))
    errors = isolated(lambda: [netfilter_says(request) for request in requests])
    assert set(errors) == {errno.ENOENT}
