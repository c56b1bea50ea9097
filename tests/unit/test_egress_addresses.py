"""Which addresses a name may lead to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.egress.addresses import check, is_public, unwrap
from backends.egress.own_addresses import OwnAddresses
from backends.network.host_networks import KernelTables, parse_own, read_kernel_tables
from backends.network.policy import Peer, Ports, Protocol, Rule

FOURS = st.ip_addresses(v=4)
EVERYTHING = ("0.0.0.0/0", "::/0")
NEVER = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1"),
    *("239.255.255.255", "255.255.255.255", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("::", "::1", "fe80::1", "fe80::1%1", "febf::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254"),
]
PRIVATE = [
    *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "192.0.2.1", "198.51.100.7"),
    *("203.0.113.9", "198.18.0.1", "192.88.99.1", "240.0.0.1", "192.0.0.9"),
    *("fc00::1", "fd12::1", "fec0::1", "2001:db8::1", "2001:2::1", "3fff::1", "100::1", "5f00::1", "4000::1"),
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "2a00:1450::1", "2620:fe::fe"]


def wrapped(inner: IPv4Address) -> list[str]:
    """The IPv6 addresses that stand for `inner`."""
    low, packed = int(inner), inner.packed.hex()
    forms = [
        f"::ffff:{inner}",
        f"::ffff:0:{inner}",
        f"64:ff9b::{inner}",
        str(IPv6Address(0x2002 << 112 | low << 80)),
    ]
    teredo_client = f"2001:0:0808:0808:0:0:{(low ^ 0xFFFFFFFF) >> 16:x}:{(low ^ 0xFFFFFFFF) & 0xFFFF:x}"
    teredo_server = f"2001:0:{packed[:4]}:{packed[4:]}:0:0:f7f7:f7f7"
    return [*forms, teredo_client, teredo_server]


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_refused_whatever_a_rule_says(address: str) -> None:
    assert not check(address, 443, permitted=EVERYTHING).allowed


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_takes_a_rule_that_says_so(address: str) -> None:
    assert check(address, 443).reason == "address_private"
    assert check(address, 443, permitted=(str(ip_network(address)),)).allowed


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_open(address: str) -> None:
    assert check(address, 443).allowed


@pytest.mark.parametrize("text", ["", "example.test", "127.1", "1.2.3.4/32", "0x7f.1", "::1::"])
def test_what_is_no_address_is_refused(text: str) -> None:
    assert check(text, 443, permitted=EVERYTHING).reason == "address_malformed"


@given(FOURS)
def test_an_address_inside_another_is_decided_as_itself(inner: IPv4Address) -> None:
    alone = check(str(inner), 443)
    for form in wrapped(inner):
        assert inner in unwrap(ip_address(form)), form
        assert check(form, 443).allowed == alone.allowed, form


@given(FOURS)
def test_compatible_addresses_are_unwrapped_too(inner: IPv4Address) -> None:
    form = IPv6Address(int(inner))
    assert unwrap(form) == ((inner,) if int(inner) > 1 else ())
    assert check(str(form), 443).allowed == (int(inner) > 1 and check(str(inner), 443).allowed)


@pytest.mark.parametrize("address", [each for each in NEVER if ":" not in each])
def test_no_wrapping_makes_a_refused_address_reachable(address: str) -> None:
    for form in [*wrapped(IPv4Address(address)), f"64:ff9b:1::{address}"]:
        assert not check(form, 443, permitted=EVERYTHING).allowed, form


@given(st.ip_addresses())
def test_what_we_call_public_the_standard_library_does(address: IPv4Address | IPv6Address) -> None:
    if is_public(address):
        assert address.is_global


@given(st.ip_addresses(), st.sampled_from([None, 1, 443]))
def test_a_deny_rule_without_limits_leaves_nothing(
    address: IPv4Address | IPv6Address, port: int | None
) -> None:
    assert not check(str(address), port, permitted=EVERYTHING, deny=(Rule("egress.deny.0", ""),)).allowed


def test_a_deny_rule_holds_for_its_networks_without_their_exceptions() -> None:
    deny = (Rule("egress.deny.0", "", (Peer("8.8.0.0/16", ("8.8.4.0/24",)), Peer("2606:4700::/32"))),)
    decision = check("8.8.8.8", 443, deny=deny)
    assert (decision.reason, decision.rule) == ("address_denied", "egress.deny.0")
    assert check("8.8.4.4", 443, deny=deny).allowed
    assert check("8.9.0.1", 443, deny=deny).allowed
    for wrapped_too in ("2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"):
        assert not check(wrapped_too, 443, deny=deny).allowed


@pytest.mark.parametrize(
    ("ports", "at_443", "at_look_up"),
    [
        (Ports(), False, False),
        (Ports(Protocol.TCP), False, False),
        (Ports(Protocol.UDP), True, True),
        (Ports(Protocol.ICMP), True, True),
        (Ports(Protocol.TCP, 443, 443), False, True),
        (Ports(Protocol.ANY, 400, 500), False, True),
        (Ports(Protocol.TCP, 443), False, True),
        (Ports(Protocol.TCP, 80, 442), True, True),
        (Ports(Protocol.TCP, 1, 65_535), False, False),
        (Ports(Protocol.TCP, 0, 65_535), False, False),
    ],
)
def test_a_deny_rule_holds_for_its_ports(ports: Ports, at_443: bool, at_look_up: bool) -> None:
    deny = (Rule("egress.deny.0", "", (), (ports,)),)
    assert check("8.8.8.8", 443, deny=deny).allowed is at_443
    assert check("8.8.8.8", None, deny=deny).allowed is at_look_up


def test_the_hosts_own_addresses_are_refused_even_where_a_rule_has_them() -> None:
    own = (ip_network("203.0.113.5/32"), ip_network("2606:4700::5/128"))
    for address in ("203.0.113.5", "2606:4700::5", "::ffff:203.0.113.5"):
        assert check(address, 443, permitted=EVERYTHING, own=own).reason == "address_of_host"


TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 192.0.2.0
        /24 link UNICAST
Local:
     |-- 192.0.2.9
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
     |-- 198.51.100.0
        /24 host LOCAL
        /25 link UNICAST
Id 100:
     |-- 0.0.0.0
        /0 host LOCAL
"""
INTERFACES = "20010db8000000000000000000000009 02 40 00 80     eth0\n"
NOWHERE = f"{'0' * 32} 00 {'0' * 32} 00000000 00000001 00000000"
ROUTES6 = f"""20010db8000000000000000000000000 40 {NOWHERE} 00000001     eth0
20010db8000000000000000000000000 80 {NOWHERE} 00300001     eth0
20010db8000700000000000000000000 30 {NOWHERE} 80200001       lo
00000000000000000000000000000000 00 {NOWHERE} 80200001       lo
"""


def test_the_kernels_tables_say_what_is_the_hosts_own() -> None:
    """Of IPv6 also where it answers for all routers of a network, and networks that it has all of."""
    assert set(map(str, parse_own(KernelTables(TRIE, INTERFACES, ROUTES6)))) == {
        *("192.0.2.9/32", "192.0.2.255/32", "198.51.100.0/24", "2001:db8::9/128"),
        *("2001:db8::/128", "2001:db8:7::/48"),
    }


def test_this_hosts_loopback_is_its_own() -> None:
    own = parse_own(read_kernel_tables())
    assert any(ip_address("127.0.0.1") in network for network in own)


def test_the_hosts_addresses_are_read_again_after_a_second() -> None:
    now, texts = [0.0], [TRIE]
    own = OwnAddresses(lambda: KernelTables(texts[0]), lambda: now[0])
    assert ip_network("192.0.2.9/32") in own.networks()
    texts[0] = TRIE.replace("192.0.2.9", "192.0.2.77")
    now[0] = 0.5
    assert ip_network("192.0.2.9/32") in own.networks()
    now[0] = 1.0
    assert ip_network("192.0.2.77/32") in own.networks()
