"""The sandbox's nameserver, in the real proxy."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from backends.egress.dns_service import DnsService
from backends.egress.events import Events
from backends.egress.gate import Gate
from backends.egress.host_names import HostsFile
from backends.egress.own_addresses import OwnAddresses
from backends.egress.passages import Connection
from backends.egress.resolving import Found, Resolver
from backends.egress.rules import Rules
from backends.egress.settings import ListenerKind
from backends.egress.streams import Stream
from backends.frozen import replace
from backends.network.policy import Peer, Ports, Protocol, Rule
from tests.unit.egress_peers import (
    DEADLINE_S,
    HOST,
    OTHER,
    WEB,
    WEB_6,
    Network,
    Proxy,
    is_ended,
    name_rule,
    network,
)

RULES = Rules(
    (
        name_rule("example.test", ports=((8443, 8443),)),
        name_rule("*.example.test", "names.1"),
        name_rule("public.test", "names.2", addresses=()),
        name_rule("public.test", "names.3", addresses=(f"{OTHER}/32",)),
    ),
    (name_rule("bad.example.test", "deniedNames.0"),),
)


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def proxy(net: Network) -> Iterator[Proxy]:
    net.names.clear()
    net.asked.clear()
    with Proxy(net, RULES) as made:
        yield made


def ask(proxy: Proxy, name: str, kind: str = "A", *, tcp: bool = False) -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=0)
    if tcp:
        with proxy.client(ListenerKind.DNS_TCP) as stream:
            dns.query.send_tcp(stream, query)
            response, _ = dns.query.receive_tcp(stream)
    else:
        with proxy.udp() as sock:
            sock.send(query.to_wire())
            response = dns.message.from_wire(sock.recv(65_536))
    assert query.is_response(response)
    return response


def found(response: dns.message.Message) -> list[str]:
    lines = [line for records in response.answer for line in records.to_text().splitlines()]
    return sorted([line.split()[-1] for line in lines])


@pytest.mark.parametrize("tcp", [False, True])
def test_an_allowed_names_addresses(net: Network, proxy: Proxy, tcp: bool) -> None:
    net.names["example.test"] = [WEB, OTHER, WEB_6]
    assert found(ask(proxy, "Example.TEST", tcp=tcp)) == [WEB, OTHER]
    assert found(ask(proxy, "example.test", "AAAA", tcp=tcp)) == [WEB_6]


def test_aliases_are_followed_and_left_out(net: Network, proxy: Proxy) -> None:
    net.names["a.example.test"] = ["one.elsewhere.test"]
    net.names["one.elsewhere.test"] = ["two.elsewhere.test"]
    net.names["two.elsewhere.test"] = [WEB]
    response = ask(proxy, "a.example.test")
    [records] = response.answer
    assert (str(records.name), records.rdtype, found(response)) == ("a.example.test.", dns.rdatatype.A, [WEB])


def test_aliases_in_a_circle_are_no_answer(net: Network, proxy: Proxy) -> None:
    net.names["a.example.test"] = ["b.example.test"]
    net.names["b.example.test"] = ["a.example.test"]
    assert ask(proxy, "a.example.test").rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize(
    ("name", "rule", "reason"),
    [
        ("other.test", "names.default", "name_not_allowed"),
        ("bad.example.test", "deniedNames.0", "name_denied"),
        ("leak.example.test.other.test", "names.default", "name_not_allowed"),
        ("2.2.0.192.in-addr.arpa", "names.default", "name_not_allowed"),
        ("127.0.0.1", "names.default", "address_literal"),
        ("a\\032b.example.test", "names.default", "name_malformed"),
        (".", "names.default", "name_malformed"),
    ],
)
def test_other_names_do_not_exist_and_nobody_is_asked(
    net: Network, proxy: Proxy, name: str, rule: str, reason: str
) -> None:
    for kind in ("A", "TXT", "PTR"):
        assert ask(proxy, name, kind).rcode() == dns.rcode.NXDOMAIN
    event = proxy.event(verdict="denied", protocol="dns")
    assert (event["rule"], event["reason"]) == (rule, reason)
    assert net.asked == []


@pytest.mark.parametrize("kind", ["HTTPS", "SVCB", "TXT", "MX", "SRV", "NS"])
def test_only_addresses_are_answered(net: Network, proxy: Proxy, kind: str) -> None:
    net.names["example.test"] = [WEB]
    response = ask(proxy, "example.test", kind)
    assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])
    assert net.asked == []


def test_only_addresses_that_may_be_connected_to_are_answered(net: Network, proxy: Proxy) -> None:
    net.names["example.test"] = [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        HOST,
        WEB,
        "::1",
        "fe80::1",
        WEB_6,
    ]
    assert found(ask(proxy, "example.test")) == [WEB]
    assert found(ask(proxy, "example.test", "AAAA")) == [WEB_6]
    assert proxy.event(verdict="denied", protocol="dns", name="example.test")
    net.names["a.example.test"] = ["127.0.0.1"]
    response = ask(proxy, "a.example.test")
    assert (response.rcode(), response.answer) == (dns.rcode.NOERROR, [])


def test_any_rule_that_allows_a_name_may_have_its_address(net: Network, proxy: Proxy) -> None:
    net.names["public.test"] = [WEB, OTHER]
    assert found(ask(proxy, "public.test")) == [OTHER]


def test_a_deny_rule_for_some_ports_leaves_the_address_known(net: Network, proxy: Proxy) -> None:
    net.names["example.test"] = [WEB]
    some = Rule("egress.deny.0", "", (Peer(f"{WEB}/32"),), (Ports(Protocol.TCP, 22, 22),))
    proxy.replace(replace(RULES, deny=(some,)))
    assert found(ask(proxy, "example.test")) == [WEB]
    proxy.replace(replace(RULES, deny=(replace(some, ports=()),)))
    assert found(ask(proxy, "example.test")) == []
    assert proxy.event(protocol="dns", address=WEB)["rule"] == "egress.deny.0"


def test_a_name_that_does_not_exist(net: Network, proxy: Proxy) -> None:
    assert ask(proxy, "no.example.test").rcode() == dns.rcode.NXDOMAIN
    assert proxy.events() == []


def test_a_long_answer_comes_by_tcp(net: Network, proxy: Proxy) -> None:
    net.names["example.test"] = [f"2001:db8:1:2:3:4:5:{number:x}" for number in range(1, 33)]
    with proxy.udp() as sock:
        sock.send(dns.message.make_query("example.test", "AAAA", use_edns=-1).to_wire())
        wire = sock.recv(65_536)
    assert len(wire) <= 512
    assert dns.message.from_wire(wire).answer == []
    assert len(found(ask(proxy, "example.test", "AAAA", tcp=True))) == 32


def test_garbage_is_dropped_and_the_next_query_answered(net: Network, proxy: Proxy) -> None:
    net.names["example.test"] = [WEB]
    with proxy.udp() as sock:
        for garbage in (b"", b"x", bytes(12), b"\xff" * 600, bytes(40_000)):
            sock.send(garbage)
        sock.send(dns.message.make_query("example.test", "A").to_wire())
        assert found(dns.message.from_wire(sock.recv(65_536))) == [WEB]
    for garbage in (b"\0\0", b"\xff\xff" + bytes(70_000), b"\0\5hello"):
        with proxy.client(ListenerKind.DNS_TCP) as stream:
            stream.settimeout(DEADLINE_S)
            stream.sendall(garbage)
            assert is_ended(stream)


def test_who_asks_and_never_reads_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(_: str) -> Found:
        return Found(failure="name_not_found")

    async def scene() -> None:
        gate = Gate(RULES, Resolver(HostsFile(), nowhere), OwnAddresses(), Events(None))
        greedy, ours = socket.socketpair()
        greedy.setblocking(False)
        query = dns.message.make_query("example.test", "A").to_wire()
        with greedy, ours:
            serving = asyncio.create_task(DnsService(gate).serve(Connection(1, Stream(ours))))
            asking = asyncio.get_running_loop().sock_sendall(
                greedy, (len(query).to_bytes(2, "big") + query) * 100_000
            )
            asked = asyncio.create_task(asking)
            with pytest.raises(TimeoutError):
                await serving
            asked.cancel()

    monkeypatch.setattr("backends.egress.dns_service.FIRST_MESSAGE_S", 0.2)
    asyncio.run(scene())


def test_a_flood_of_queries_does_not_last(net: Network, proxy: Proxy) -> None:
    net.names["example.test"] = [WEB]
    with proxy.udp() as sock:
        for number in range(3000):
            sock.send(dns.message.make_query(f"n{number}.example.test", "A").to_wire())
    for _ in range(100):
        try:
            assert found(ask(proxy, "example.test", tcp=True)) == [WEB]
            return
        except EOFError:  # there were still too many on their way
            time.sleep(0.1)
    raise AssertionError("nobody is answered any more")
