"""The host's own addresses are closed to a sandbox, whenever and however the host gets them."""

from __future__ import annotations

import pytest

from tests.network.flavours import FLAVOURS, probes_input
from tests.network.host_scripts import host_script
from tests.network.lab import Lab

pytest_plugins = ("tests.network.fixtures",)

AS_ROOT = pytest.mark.parametrize("flavour", FLAVOURS[:1])
NEW = ("192.0.2.60", "2001:db8:2::60")

ABOUT_ADDRESSES = """
import json, os, socket, subprocess
from mxc_ops import prepare
from mxc_ops.ends import Ends
from mxc_ops.sources import as_request

NEW = ("192.0.2.60", "2001:db8:2::60")

NEW_ONES = [{"kind": "tcp", "to": address, "port": 8000, "wait": 3} for address in NEW]

def addresses(verb):
    for address in NEW:
        options = ["nodad"] if verb == "add" and ":" in address else []
        subprocess.run(["ip", "address", verb, address, "dev", "lo", *options], check=True)

def greeting(address):
    until(lambda: is_routed(address))
    with socket.create_connection((address, 8000), 10) as sock:
        return sock.makefile("rb").readline().decode().strip()

def is_routed(address):
    # Linux makes the route of an address of IPv6 a moment after the address.
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.connect_ex((address, 9)) == 0

def an_address_more(given):
    with opened(given, default="allow") as session:
        came = {"beyond": probed(given, session, *({**one, "wait": 10} for one in NEW_ONES), SEVEN)}
        crowd = (f"10.66.{number >> 8}.{number & 255}/32" for number in range(given["before"]))
        lines = "".join(f"address add {address} dev lo;" for address in crowd).replace(";", chr(10))
        subprocess.run(["ip", "-b", "-"], input=lines, text=True, check=True)
        addresses("add")
        try:
            came["the host itself"] = [greeting(address) for address in NEW]
            until(lambda: not any(probed(given, session, *NEW_ONES)))
            came["the host's"] = [probed(given, session, *NEW_ONES, SEVEN) for _ in range(3)]
            for address in NEW:
                until(lambda: decided(session, "denied", address=address, port=8000))
        finally:
            addresses("del")
            subprocess.run("ip address flush dev lo to 10.66.0.0/16".split(), check=True)
    return came

def an_address_before_the_launch(given):
    with prepare(as_request(json.dumps(given["document"]).encode())) as prepared:
        addresses("add")
        try:
            result = prepared.run(Ends(given["input"].encode(), None, None, None, None, None, 1 << 20))
        finally:
            addresses("del")
    return sorted((line["probe"], line["reached"]) for line in map(json.loads, result.stdout.splitlines()))

def an_address_told_again(given):
    # Beside others: as each renewal of a lease does, and a link that comes back.
    beside = [f"10.66.0.{last}" for last in (4, 5, 6)]
    for address in beside:
        subprocess.run(["ip", "address", "add", f"{address}/24", "dev", "lo"], check=True)
    try:
        with opened(given, default="allow") as session:
            for lifetime in ("1000", "2000"):
                lifetimes = f"valid_lft {lifetime} preferred_lft {lifetime}"
                subprocess.run(f"ip address change 10.66.0.5/24 dev lo {lifetimes}".split(), check=True)
                addresses("add")
                until(lambda: not any(probed(given, session, *NEW_ONES)))
                addresses("del")
            return probed(given, session, SEVEN)
    finally:
        subprocess.run("ip address flush dev lo to 10.66.0.0/16".split(), check=True)

def an_address_while_rules_are_replaced(given):
    # It is told of after the addresses were read, and before the rules are loaded.
    from unittest.mock import patch
    from backends.inside.store import LAUNCHER, find_program
    from backends.network import for_plans, opening
    from backends.network.policy import NetworkPolicy
    policy = NetworkPolicy(egress_allowed=True)
    plan = for_plans.plan_for(policy, for_plans.observe_for(policy, root=True), root=True)
    network = opening.open_network(plan, find_program(LAUNCHER))
    try:
        addresses("add")
        with patch.object(opening, "host_addresses", lambda: ()):
            network.replace(policy)
        inside = f"nsenter --net=/proc/{os.getpid()}/fd/{network.namespace} nft list ruleset"
        listed = subprocess.run(inside.split(), check=True, capture_output=True, text=True).stdout
        return [address in listed for address in NEW]
    finally:
        addresses("del")
        network.close()

def an_address_with_a_peer(given):
    # Of IPv6 only with one, and of IPv4 always, the kernel tells the address itself apart from the other.
    mine, theirs = NEW[1], NEW[1] + "9"
    with opened(given, default="allow") as session:
        subprocess.run(f"ip address add {mine} peer {theirs} dev lo nodad".split(), check=True)
        try:
            until(lambda: not any(probed(given, session, NEW_ONES[1])))
            return probed(given, session, SEVEN)
        finally:
            subprocess.run(f"ip address del {mine} peer {theirs} dev lo".split(), check=True)

def a_network_whole(given):
    # A route of the kind local: before the start, for later ones are not told of.
    subprocess.run("ip -6 route add local 2001:db8:77::/48 dev lo table local".split(), check=True)
    try:
        probes = [{"kind": "tcp", "to": f"2001:db8:77::{last}", "port": 8000, "wait": 3} for last in (1, 9)]
        came = {"the host itself": greeting("2001:db8:77::9")}
        with opened(given, default="allow") as session:
            came["the host's"] = probed(given, session, *probes, SEVEN)
        return came
    finally:
        subprocess.run("ip -6 route del local 2001:db8:77::/48 dev lo table local".split(), check=True)
"""


@pytest.mark.parametrize("before", [0, 2000], ids=["alone", "after-more-than-netlink-has-room-for"])
@AS_ROOT
def test_an_address_that_the_host_gets_later_is_closed(lab: Lab, before: int) -> None:
    came = host_script(lab, ABOUT_ADDRESSES, "an_address_more", before=before)
    assert came["beyond"] == [True, True, True]
    assert came["the host itself"] == [f"tcp {address} 8000" for address in NEW]
    assert came["the host's"] == [[False, False, True]] * 3


@AS_ROOT
def test_an_address_that_the_host_gets_between_plan_and_launch_is_closed(lab: Lab) -> None:
    """The plan has the host's addresses of its time, and only later ones were told of."""
    probes = [{"kind": "tcp", "to": to, "port": 8000, "wait": 3} for to in (*NEW, "192.0.2.7")]
    document = lab.document({"network": {"egress": {"default": "allow"}}})
    given = {"document": document, "input": probes_input(probes)}
    came = host_script(lab, ABOUT_ADDRESSES, "an_address_before_the_launch", **given)
    assert came == [[0, False], [1, False], [2, True]]
    assert lab.bed.on_host.ask("seen") == []


@AS_ROOT
def test_an_address_that_the_host_is_told_of_again_harms_no_sandbox(lab: Lab) -> None:
    """Nft took no part of a range for an element, and the gate ended its sandbox over it."""
    assert host_script(lab, ABOUT_ADDRESSES, "an_address_told_again") == [True]


@AS_ROOT
def test_an_address_that_the_host_gets_while_rules_are_replaced_is_closed(lab: Lab) -> None:
    assert host_script(lab, ABOUT_ADDRESSES, "an_address_while_rules_are_replaced") == [True, True]


@AS_ROOT
def test_an_address_with_a_peer_is_closed(lab: Lab) -> None:
    """The peer's was, and its own was not."""
    assert host_script(lab, ABOUT_ADDRESSES, "an_address_with_a_peer") == [True]


@AS_ROOT
def test_a_network_that_the_host_has_all_of_is_closed(lab: Lab) -> None:
    came = host_script(lab, ABOUT_ADDRESSES, "a_network_whole")
    assert came == {"the host itself": "tcp 2001:db8:77::9 8000", "the host's": [False, False, True]}
