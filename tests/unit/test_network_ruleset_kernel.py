"""Rulesets in the kernel: loaded for real, with connections through them."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.network.layout import LocalLayout, RoutedLayout
from backends.network.nflog import Decision, bind_messages, decisions
from backends.network.policy import Direction, NetworkPolicy, Peer, PortMapping, Protocol, Rule
from backends.network.ruleset import LOG_GROUP, ruleset
from tests.unit.network_lab import (
    PATIENCE_S,
    UDP,
    arrives,
    connect,
    counted,
    every_address,
    isolated,
    listen,
    load,
    needs_namespaces,
    outside,
    refusal,
    serve,
    tables,
)
from tests.unit.network_reference import Asked, decide, edges, policies, port_edges

pytestmark = needs_namespaces
FREEBIND = 78  # linux/in6.h
GOLDEN = Path(__file__).parent.parent / "golden" / "network"
LOCAL = LocalLayout("uplink", ("192.0.2.15", "fd00::15"), ("192.0.2.1", "fd00::1"))
NAMES = LocalLayout("uplink", LOCAL.own, LOCAL.host_addresses, 3128, 3129, 3053)
ALONE = LocalLayout(proxy_port=3128, redirect_port=3129, dns_port=3053)
ROUTED = RoutedLayout(
    *("tap0", "uplink", ("10.0.2.15", "fd02::15"), ("10.0.2.2", "fd02::2"), LOCAL.host_addresses),
    *(3128, 3129, 3053, (80, 443), (("tcp", 8080),)),
)
THERE = ("198.51.100.7", "2001:db8::7")
OTHER = ("203.0.113.7", "2001:db9::7")
ALLOWING = NetworkPolicy(
    allow=(Rule("egress.allow.0", "", (Peer("198.51.100.0/24"), Peer("2001:db8::/32"))),),
    mappings=(PortMapping("mapping.0", "", Direction.TO_SANDBOX, Protocol.TCP, "127.0.0.1", 8000, 5000),),
)
NOTHING = NetworkPolicy()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.nft")), ids=lambda path: path.stem)
@pytest.mark.parametrize("user_namespace", [os.geteuid() != 0, True], ids=["as is", "in a user namespace"])
def test_nft_loads_what_is_recorded(path: Path, user_namespace: bool) -> None:
    text = path.read_text()

    def body() -> list[str]:
        load(text)
        return tables()

    assert isolated(body, user_namespace=user_namespace) == ["mxc.3"]


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(policy=policies(), layout=st.sampled_from([LOCAL, NAMES, ALONE, ROUTED]))
def test_nft_loads_any_policy(policy: NetworkPolicy, layout: LocalLayout | RoutedLayout) -> None:
    isolated(lambda: load(ruleset(policy, layout).text))


def test_the_first_and_the_last_address_of_a_network_are_in_it() -> None:
    """As the kernel's interval sets see it: at 0.0.0.0, at 255.255.255.255, between ranges that touch."""
    cidrs = ("198.51.100.8/30", "198.51.100.12/31", "198.51.100.64/26", "2001:db8::10/124")
    rule = Rule("egress.allow.0", "", (*map(Peer, cidrs), Peer("198.51.100.0/29", ("198.51.100.2/31",))))
    inside = {8, 13, 64, 127, 0, 1, 4, 7}
    asked = {0, 1, 2, 3, 4, 7, 8, 13, 14, 63, 64, 127, 128}

    def body() -> tuple[set[int], list[str]]:
        with outside():
            load(ruleset(NetworkPolicy(allow=(rule,)), LOCAL).text)
            reached = {one for one in asked if not refusal(f"198.51.100.{one}", 9, UDP)}
            ipv6 = [refusal(f"2001:db8::{one}", 9, UDP) for one in ("f", "10", "1f", "20")]
            return reached, ipv6

    assert isolated(body) == (inside, ["EPERM", "", "", "EPERM"])


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(policy=policies(), seed=st.integers(0, 1 << 32))
def test_the_kernel_decides_as_the_policy_says(policy: NetworkPolicy, seed: int) -> None:
    """Datagrams to the edges of all that the policy names, as far as one can be sent there."""
    asked = [
        Asked(where, 17, port)
        for where in edges(policy)
        for port in port_edges(policy)
        if port and str(where).startswith(("10.0.0.", "2001:db8:"))
    ]
    asked = random.Random(seed).sample(asked, min(len(asked), 200))

    def body() -> list[bool]:
        with outside():
            load(ruleset(policy, LOCAL).text)
            senders = {4: socket.socket(socket.AF_INET, UDP), 6: socket.socket(socket.AF_INET6, UDP)}
            return [sent(senders[one.destination.version], one) for one in asked]

    assert isolated(body) == [decide(policy, one)[1] for one in asked]


def sent(sender: socket.socket, asked: Asked) -> bool:
    try:
        sender.sendto(b"?", (str(asked.destination), asked.port))
    except PermissionError:
        return False
    return True


def test_what_is_refused_is_refused_at_once() -> None:
    def body() -> list[str]:
        with outside():
            load(ruleset(NOTHING, LOCAL).text)
            return [refusal(where, 22, kind) for kind in (socket.SOCK_STREAM, UDP) for where in OTHER]

    assert isolated(body) == ["EHOSTUNREACH", "ECONNREFUSED", "EPERM", "EPERM"]


@pytest.mark.parametrize("there", THERE)
def test_both_directions_are_counted_for_the_rule(there: str) -> None:
    def body() -> tuple[dict[str, tuple[int, int]], int]:
        with outside() as away:
            with away.inside():
                server = serve(22)
            load(ruleset(ALLOWING, LOCAL).text)
            client = connect(there, 22)
            other = server.accept(there)
            load_size = 1000
            client.send(b"x" * load_size)
            assert other.recv(2 * load_size) == b"x" * load_size
            other.send(b"y" * load_size)
            assert client.recv(2 * load_size) == b"y" * load_size
            return counted(), load_size

    counts, size = isolated(body)
    assert set(counts) == {"egress.allow.0"}
    packets, total = counts["egress.allow.0"]
    headers = (40 if ":" in there else 20) + 20
    assert packets >= 6  # three to open it, and two with data, of which one at least is acknowledged
    assert total >= 2 * size + packets * headers


def test_a_sandbox_sends_from_its_own_addresses_only() -> None:
    """Whoever may open an IPv6 socket may bind it to any address."""

    def body() -> dict[str, tuple[int, int]]:
        with outside():
            load(ruleset(ALLOWING, LOCAL).text)
            with socket.socket(socket.AF_INET6, UDP) as sender:
                sender.setsockopt(socket.IPPROTO_IPV6, FREEBIND, 1)
                sender.bind(("2001:db9::99", 0))
                with pytest.raises(PermissionError):
                    sender.sendto(b"?", (THERE[1], 9))
            return counted()

    assert set(isolated(body)) == {"egress.spoofed"}


@pytest.mark.parametrize("there", THERE)
@pytest.mark.parametrize("first", ["sandbox", "peer"])
def test_a_connection_goes_on_or_ends_with_the_rules_that_replace_its_own(there: str, first: str) -> None:
    """Whichever end speaks first after the replacement."""

    def body() -> list[bool]:
        with outside() as away:
            with away.inside():
                server = serve(22)
            load(ruleset(ALLOWING, LOCAL, generation=1))
            client = connect(there, 22)
            other = server.accept(there)
            ways = [(client, other), (other, client)]
            both = ways if first == "sandbox" else ways[::-1]
            found = [arrives(*way) for way in both]
            load(ruleset(ALLOWING, LOCAL, generation=2))
            found += [arrives(*way) for way in both]
            load(ruleset(NOTHING, LOCAL, generation=3))
            return found + [arrives(*way, 0.5) for way in both]

    assert isolated(body) == [True] * 4 + [False] * 2


def test_the_sandbox_is_told_that_its_connection_ends() -> None:
    def body() -> str:
        with outside() as away:
            with away.inside():
                server = serve(22)
            load(ruleset(ALLOWING, LOCAL, generation=1))
            client = connect(THERE[0], 22)
            other = server.accept(THERE[0])
            load(ruleset(NOTHING, LOCAL, generation=2))
            assert not arrives(client, other, 0.1)
            try:
                client.recv(1)
            except OSError as error:
                return errno.errorcode[error.errno or 0]
            return ""

    assert isolated(body) == "ECONNRESET"


def test_a_direct_connection_ends_where_names_are_asked_for_now() -> None:
    def body() -> bool:
        with outside() as away:
            with away.inside():
                server = serve(80)
            load(ruleset(ALLOWING, LOCAL, generation=1))
            client = connect(THERE[0], 80)
            other = server.accept(THERE[0])
            assert arrives(client, other)
            load(ruleset(NetworkPolicy(egress_allowed=True), NAMES, generation=2))
            return arrives(other, client, 0.5) or arrives(client, other, 0.5)

    assert not isolated(body)


@pytest.mark.parametrize("alone", [True, False], ids=["without an uplink", "with one"])
def test_names_are_the_proxys(alone: bool) -> None:
    layout = ALONE if alone else NAMES

    def body() -> list[str]:
        if alone:
            every_address()
        load(ruleset(NOTHING, layout, generation=1))
        proxies = [listen(where, 3129) for where in ("127.0.0.1", "::1")]
        names = listen("127.0.0.1", 3053, UDP)
        for there, proxy in zip(OTHER, proxies, strict=True):
            client = connect(there, 443)
            other, _ = proxy.accept()
            assert arrives(client, other) and arrives(other, client)
            load(ruleset(NOTHING, layout, generation=2))
            assert arrives(other, client) and arrives(client, other)
            load(ruleset(NOTHING, layout, generation=1))
        client = connect("203.0.113.53", 53, UDP)
        client.send(b"question")
        question, asker = names.recvfrom(100)
        names.sendto(question[::-1], asker)
        assert client.recv(100) == b"noitseuq"
        return [refusal(there, 22) for there in OTHER]

    def all_of_it() -> list[str]:
        if alone:
            return body()
        with outside():
            return body()

    assert isolated(all_of_it) == ["EHOSTUNREACH", "ECONNREFUSED"]


def test_the_host_is_closed() -> None:
    def body() -> list[str]:
        with outside() as away:
            with away.inside():
                serve(22)
            load(ruleset(NetworkPolicy(egress_allowed=True), LOCAL).text)
            refused = [refusal(where, 22) for where in LOCAL.host_addresses]
            assert set(counted()) == {"egress.host"}
            return refused

    assert isolated(body) == ["EHOSTUNREACH", "ECONNREFUSED"]


def test_nothing_comes_in() -> None:
    def body() -> list[str]:
        with outside() as away:
            load(ruleset(NetworkPolicy(egress_allowed=True), LOCAL).text)
            sockets = [listen(where, 22) for where in ("0.0.0.0", "::")]
            with away.inside():
                found = [refusal(where, 22, patience_s=0.5) for where in LOCAL.own]
            assert set(counted()) == {"ingress.default"} and sockets
            return found

    assert isolated(body) == ["silence", "silence"]


def events() -> socket.socket:
    """A socket bound to the log's group, in the namespace where the process is now."""
    log = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    log.settimeout(PATIENCE_S)
    for message in bind_messages(LOG_GROUP):
        log.send(message)
        assert struct.unpack_from("=i", log.recv(65536), 16) == (0,)  # nlmsgerr: no error
    return log


def next_event(log: socket.socket) -> Decision:
    while not (found := decisions(log.recv(65536))):
        pass
    return found[0]


@pytest.mark.parametrize("there", THERE)
def test_new_connections_are_events(there: str) -> None:
    source = LOCAL.own[":" in there]
    family = ip_address(there).version

    def body() -> tuple[list[Decision], int]:
        with outside() as away:
            with away.inside():
                receiver = listen("::" if family == 6 else "0.0.0.0", 53, UDP)
            load(ruleset(ALLOWING, LOCAL).text)
            log = events()
            client = connect(there, 53, UDP)
            client.send(b"12345")
            client.send(b"no event of its own")
            assert receiver.recv(100) == b"12345"
            found = [next_event(log)]
            refusal(OTHER[":" in there], 22)
            return [*found, next_event(log)], client.getsockname()[1]

    (allowed, denied), port = isolated(body)
    length = 5 + 8 + (40 if family == 6 else 20)
    assert allowed == Decision("egress.allow.0", True, family, "udp", source, port, there, 53, length)
    assert (denied.rule, denied.allowed, denied.protocol) == ("egress.default", False, "tcp")
    assert (denied.destination, denied.destination_port) == (OTHER[":" in there], 22)


def test_a_flood_of_refusals_is_counted_whole_and_reported_in_part() -> None:
    def body() -> tuple[int, int]:
        with outside():
            load(ruleset(NOTHING, LOCAL).text)
            log = events()
            sender = socket.socket(socket.AF_INET, UDP)
            for _ in range(1000):
                with pytest.raises(PermissionError):
                    sender.sendto(b"?", (OTHER[0], 9))
            log.settimeout(0.2)
            reported = 0
            try:
                while True:
                    reported += len(decisions(log.recv(65536)))
            except TimeoutError:
                return counted()["egress.default"][0], reported

    sent, reported = isolated(body)
    assert sent == 1000
    assert 100 <= reported < 1000
