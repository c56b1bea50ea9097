"""Long lists in the kernel: filled by netlink, or read by nft."""

from __future__ import annotations

import errno
import json
import socket
import struct

from backends.network.exact_sets import filling
from backends.network.layout import LocalLayout
from backends.network.policy import NetworkPolicy, Peer, Rule
from backends.network.ruleset import TABLE, ruleset
from tests.unit.network_lab import PATIENCE_S, isolated, load, needs_namespaces, run

pytestmark = needs_namespaces
LAYOUT = LocalLayout("uplink", ("192.0.2.15", "fd00::15"), ("192.0.2.1", "fd00::1"))
LONG = {"egress.deny.0.v4.24": 4500, "egress.allow.0.v6.48": 2500}


def netfilter_says(request: bytes) -> int:
    """The errno that it answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as asking:
        asking.settimeout(PATIENCE_S)
        asking.send(request)
        (error,) = struct.unpack_from("=i", asking.recv(65536), 16)
        return -int(error)


def test_long_lists_are_filled_with_what_nft_would_have_read() -> None:
    """Of each family more than one message has, of several lengths; at the ends of the number range too."""
    ipv4 = [f"10.{n >> 7}.{n % 128 * 2}.0/24" for n in range(4500)] + ["0.0.0.0/8", "255.255.255.255/32"]
    ipv6 = [f"2001:db8:{2 * n:x}::/48" for n in range(2500)] + ["::/16", "ffff::/17"]
    deny = Rule("egress.deny.0", "", tuple(map(Peer, ipv4)))
    allow = Rule("egress.allow.0", "", tuple(map(Peer, ipv6)))
    rules = ruleset(NetworkPolicy(deny=(deny,), allow=(allow,)), LAYOUT)
    requests = [request for one in rules.exact for request in filling(TABLE, one)]
    assert len(requests) > len(rules.exact)

    def body() -> tuple[str, list[int], str]:
        load(rules.text)
        whole = run("nft", "-j", "list", "sets")
        load(rules.unfilled)
        errors = [netfilter_says(request) for request in requests]
        return whole, errors, run("nft", "-j", "list", "sets")

    whole, errors, filled = isolated(body)
    assert set(errors) == {0}
    assert members(filled) == members(whole)
    assert {name: len(listed) for name, listed in members(filled).items() if name in LONG} == LONG


def members(listing: str) -> dict[str, list[str]]:
    """The elements of each set."""
    sets = [each["set"] for each in json.loads(listing)["nftables"] if "set" in each]
    return {each["name"]: sorted(map(str, each.get("elem", ()))) for each in sets}


def test_a_list_that_cannot_be_filled_is_an_error() -> None:
    allow = Rule("egress.allow.0", "", tuple(Peer(f"10.{n >> 7}.{n % 128 * 2}.0/24") for n in range(300)))
    [long] = ruleset(NetworkPolicy(allow=(allow,)), LAYOUT).exact
    requests = list(filling(TABLE, long))
    errors = isolated(lambda: [netfilter_says(request) for request in requests])
    assert set(errors) == {errno.ENOENT}
