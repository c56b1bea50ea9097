"""Rulesets between a machine's tap and the uplink, in the kernel: with connections through them."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from backends.network.layout import RoutedLayout
from backends.network.policy import Direction, NetworkPolicy, Peer, PortMapping, Ports, Protocol, Rule
from backends.network.ruleset import ruleset
from tests.unit.network_lab import (
    UDP,
    Namespace,
    arrives,
    connect,
    counted,
    isolated,
    listen,
    load,
    machine,
    needs_namespaces,
    outside,
    refusal,
    serve,
)

pytestmark = needs_namespaces
OURS = ("192.0.2.15", "fd00::15")
HOSTS = ("192.0.2.1", "fd00::1")
ROUTED = RoutedLayout(
    *("tap0", "uplink", ("10.0.2.15", "fd02::15"), ("10.0.2.2", "fd02::2"), HOSTS),
    *(3128, 3129, 3053, (80, 443), (("tcp", 8080),)),
)
THERE = ("198.51.100.7", "2001:db8::7")
OTHER = ("203.0.113.7", "2001:db9::7")
ALLOWING = NetworkPolicy(
    allow=(Rule("egress.allow.0", "", (Peer("198.51.100.0/24"), Peer("2001:db8::/32"))),),
    mappings=(PortMapping("mapping.0", "", Direction.TO_SANDBOX, Protocol.TCP, "127.0.0.1", 8000, 5000),),
)
NOTHING = NetworkPolicy()


@pytest.mark.parametrize("there", THERE)
def test_a_machines_connections_go_on_or_end_with_the_rules(there: str) -> None:
    def body() -> list[bool]:
        with outside() as away, machine() as guest:
            with away.inside():
                server = serve(22)
            load(ruleset(ALLOWING, ROUTED, generation=1))
            with guest.inside():
                client = connect(there, 22)
            other = server.accept(there)
            assert other.getpeername()[0] == OURS[":" in there]
            ways = [(other, client), (client, other)]
            found = [arrives(*way) for way in ways]
            load(ruleset(ALLOWING, ROUTED, generation=2))
            found += [arrives(*way) for way in ways]
            load(ruleset(NOTHING, ROUTED, generation=3))
            return found + [arrives(*way, 0.5) for way in ways]

    assert isolated(body) == [True] * 4 + [False] * 2


def in_a_machine(policy: NetworkPolicy, ask: Callable[[Namespace], list[str]]) -> dict[str, object]:
    def body() -> dict[str, object]:
        with outside(), machine() as guest:
            load(ruleset(policy, ROUTED).text)
            return {"found": ask(guest), "counted": set(counted())}

    return isolated(body)


def test_a_machine_is_refused_at_once() -> None:
    def ask(guest: Namespace) -> list[str]:
        with guest.inside():
            return [refusal(where, 22) for where in (*OTHER, *ROUTED.gateway, *OURS)]

    assert in_a_machine(NOTHING, ask) == {
        "found": ["EHOSTUNREACH", "ECONNREFUSED"] * 3,
        "counted": {"egress.default", "egress.host"},
    }


def test_a_machine_with_another_address_is_not_heard() -> None:
    def ask(guest: Namespace) -> list[str]:
        with guest.inside():
            sender = socket.socket(socket.AF_INET, UDP)
            sender.bind(("10.0.2.16", 0))
            sender.sendto(b"?", (THERE[0], 9))
        return []

    assert in_a_machine(NetworkPolicy(egress_allowed=True), ask)["counted"] == {"egress.spoofed"}


def test_a_machine_reaches_the_proxy_by_name_and_by_port() -> None:
    def ask(guest: Namespace) -> list[str]:
        places = ((where, port) for where in ROUTED.gateway for port in (3129, 3128, 8080))
        proxies = {place: listen(*place) for place in places}
        for there, gateway in zip(OTHER, ROUTED.gateway, strict=True):
            ways = (((there, 443), 3129), ((gateway, 3128), 3128), ((gateway, 8080), 8080))
            for asked, port in ways:
                with guest.inside():
                    client = connect(*asked)
                other, _ = proxies[gateway, port].accept()
                assert arrives(client, other) and arrives(other, client)
        names = listen(ROUTED.gateway[0], 3053, UDP)
        for there in ("203.0.113.53", ROUTED.gateway[0]):
            with guest.inside():
                client = connect(there, 53, UDP)
            client.send(b"question")
            question, asker = names.recvfrom(100)
            names.sendto(question[::-1], asker)
            assert client.recv(100) == b"noitseuq"
        return []

    assert in_a_machine(NOTHING, ask)["counted"] == {"egress.redirect"}


def test_a_machine_is_reached_at_its_mapped_ports() -> None:
    def ask(guest: Namespace) -> list[str]:
        with guest.inside():
            listening = [listen(where, port) for where in ("0.0.0.0", "::") for port in (5000, 5001)]
        for where in ROUTED.guest:
            client = connect(where, 5000)
            other, _ = listening[2 if ":" in where else 0].accept()
            assert arrives(client, other) and arrives(other, client)
        return [refusal(where, 5001, patience_s=0.5) for where in ROUTED.guest]

    assert in_a_machine(ALLOWING, ask)["found"] == ["silence", "silence"]


def test_fragments_are_judged_by_the_ports_of_the_whole() -> None:
    """Datagrams larger than the link, which the machine itself cuts up."""
    denying = NetworkPolicy(
        egress_allowed=True, deny=(Rule("egress.deny.0", "", (), (Ports(Protocol.UDP, 9),)),)
    )

    def body() -> tuple[bytes, list[str]]:
        with outside() as away, machine() as guest:
            with away.inside():
                server = listen("0.0.0.0", 10, UDP)
            load(ruleset(denying, ROUTED).text)
            with guest.inside():
                sender = socket.socket(socket.AF_INET, UDP)
            sender.sendto(b"x" * 4000, (THERE[0], 9))
            sender.sendto(b"y" * 4000, (THERE[0], 10))
            return server.recv(8000), sorted(counted())

    assert isolated(body) == (b"y" * 4000, ["egress.default", "egress.deny.0"])
