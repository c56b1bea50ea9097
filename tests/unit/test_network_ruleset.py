"""The ruleset means what the policy says: packets, through a simulator of nftables, against the policy."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.frozen import replace as frozen_replace
from backends.network import matching
from backends.network.layout import Layout, LocalLayout, RoutedLayout
from backends.network.policy import Direction, NetworkPolicy, Peer, PortMapping, Ports, Protocol, Rule
from backends.network.ruleset import ruleset
from tests.unit.network_reference import ICMP, Asked, decide, edges, policies, port_edges
from tests.unit.packet_simulator import CONFIRMED, DNAT, Address, Outcome, Packet, Simulator

OWN = {4: "192.0.2.15", 6: "fd00::15"}
HOSTS = ("198.51.100.1", "fd00::1")
LOCAL = LocalLayout("uplink", tuple(OWN.values()), HOSTS)
NAMES = LocalLayout("uplink", tuple(OWN.values()), HOSTS, 3128, 3129, 3053)
GATEWAY = ("192.0.2.1", "fd00::2")
ROUTED = RoutedLayout("tap0", "uplink", tuple(OWN.values()), GATEWAY, HOSTS)
ROUTED_NAMES = RoutedLayout(
    *("tap0", "uplink", tuple(OWN.values()), GATEWAY, HOSTS, 3128, 3129, 3053, (80, 443), (("tcp", 8080),))
)
PROXY = {LocalLayout: ("127.0.0.1", "::1"), RoutedLayout: GATEWAY}
LAYOUTS = pytest.mark.parametrize("layout", [LOCAL, NAMES, ROUTED, ROUTED_NAMES], ids=lambda one: _name(one))
MAPPED = PortMapping("mapping.0", "/m/0", Direction.TO_SANDBOX, Protocol.TCP, "127.0.0.1", 8000, 5000)
thorough = settings(
    max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def _name(layout: Layout) -> str:
    return f"{type(layout).__name__}{'-names' if layout.redirect_port else ''}"


def _redirected(layout: Layout, asked: Asked) -> bool:
    dns = asked.port == 53 and asked.protocol in (6, 17)
    return layout.redirect_port is not None and (dns or (asked.protocol == 6 and asked.port in (80, 443)))


def expected(policy: NetworkPolicy, layout: Layout, asked: Asked) -> tuple[str, bool]:
    """`decide`, and the proxy in the default's place."""
    name, allowed = decide(policy, asked)
    if name == "egress.default" and _redirected(layout, asked):
        return "egress.redirect", True
    return name, allowed


def first_packet(layout: Layout, asked: Asked) -> Packet:
    source = ip_address(OWN[asked.destination.version])
    packet = Packet(source, asked.destination, asked.protocol, 40000, asked.port)
    return replace(packet, oif="uplink") if isinstance(layout, LocalLayout) else replace(packet, iif="tap0")


def send(simulator: Simulator, layout: Layout, packet: Packet) -> Outcome:
    """The way of a packet that the sandbox sends, through all hooks that it meets."""
    if isinstance(layout, LocalLayout):
        outcome = simulator.run("output", packet)
        if outcome.verdict != "accept":
            return outcome
        inner = bool(outcome.packet.status & DNAT)
        leaving = simulator.run("postrouting", replace(outcome.packet, oif="lo" if inner else "uplink"))
        if leaving.verdict == "accept" and inner:
            leaving = simulator.run("input", replace(outcome.packet, iif="lo", oif=""))
    else:
        outcome = simulator.run("prerouting", packet)
        if outcome.verdict != "accept":
            return outcome
        if str(outcome.packet.destination) in GATEWAY:
            leaving = simulator.run("input", outcome.packet)
        else:
            leaving = simulator.run("forward", replace(outcome.packet, oif="uplink"))
    outcome.verdict = leaving.verdict
    outcome.rule = leaving.rule or outcome.rule
    return outcome


def receive(simulator: Simulator, layout: Layout, packet: Packet) -> Outcome:
    """The way of a packet from the uplink."""
    if isinstance(layout, LocalLayout):
        return simulator.run("input", replace(packet, iif="uplink"))
    assert simulator.run("prerouting", replace(packet, iif="uplink")).verdict == "accept"
    return simulator.run("forward", replace(packet, iif="uplink", oif="tap0"))


def answer(packet: Packet, mark: int) -> Packet:
    return replace(
        packet,
        source=packet.destination,
        destination=packet.source,
        source_port=packet.destination_port,
        destination_port=packet.source_port,
        state="established",
        direction="reply",
        status=CONFIRMED,
        mark=mark,
        original=(packet.destination, packet.destination_port),
        iif="",
        oif="",
    )


def questions(policy: NetworkPolicy, seed: int) -> list[Asked]:
    """At the edges of all that `policy` names, some of them."""
    protocols = (6, 17, 1, 58, 132)
    pairs = [(protocol, port) for protocol in protocols[:2] for port in port_edges(policy)]
    pairs += [(protocol, 0) for protocol in protocols[2:]]
    every = [Asked(address, *pair) for address in edges(policy) for pair in pairs]
    return random.Random(seed).sample(every, min(len(every), 80))


@pytest.fixture(params=[256, 0], ids=["few", "many"])
def in_a_tree(request: pytest.FixtureRequest) -> Iterator[None]:
    """How many networks of a rule are one set of ranges: of more, there is one for each length of prefix."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "MOST_IN_A_TREE", request.param)
        yield


@LAYOUTS
@thorough
@given(policy=policies(), seed=st.integers(0, 1 << 32))
def test_the_first_packet_is_decided_as_the_policy_says(
    in_a_tree: None, layout: Layout, policy: NetworkPolicy, seed: int
) -> None:
    rules = ruleset(policy, layout, generation=seed)
    simulator = Simulator(rules.text)
    for asked in questions(policy, seed):
        name, allowed = expected(policy, layout, asked)
        outcome = send(simulator, layout, first_packet(layout, asked))
        assert (outcome.rule, outcome.verdict) == (name, "accept" if allowed else "reject"), asked
        redirected = name == "egress.redirect"
        assert outcome.events == ([] if redirected else [f"{name} {'allow' if allowed else 'deny'}"])
        if allowed:
            assert rules.counters[(outcome.packet.mark & 0xFFFF) - 1] == name
            assert outcome.packet.mark >> 16 == seed % 65536
        assert bool(outcome.packet.status & DNAT) is redirected
        if redirected:
            assert str(outcome.packet.destination) in PROXY[type(layout)]
            assert outcome.packet.destination_port == (3053 if asked.port == 53 else 3129)


@LAYOUTS
@thorough
@given(before=policies(), policy=policies(), seed=st.integers(0, 1 << 32))
def test_connections_are_judged_again_after_a_replacement(
    layout: Layout, before: NetworkPolicy, policy: NetworkPolicy, seed: int
) -> None:
    """In whichever direction the next packet goes; what ran past the proxy is not let on, nor led to it."""
    first = Simulator(ruleset(before, layout, generation=7).text)
    simulator = Simulator(ruleset(policy, layout, generation=8).text)
    for asked in questions(policy, seed):
        opened = send(first, layout, first_packet(layout, asked))
        if opened.verdict != "accept" or opened.packet.status & DNAT:
            continue
        name, allowed = expected(policy, layout, asked)
        goes_on = allowed and name != "egress.redirect"
        mark = opened.packet.mark
        reply = receive(simulator, layout, answer(first_packet(layout, asked), mark))
        assert (reply.rule, reply.verdict) == (name, "accept" if goes_on else "drop"), asked
        later = replace(first_packet(layout, asked), state="established", status=CONFIRMED, mark=mark)
        sent = send(simulator, layout, later)
        assert (sent.rule, sent.verdict) == (name, "accept" if goes_on else "reject"), asked
        if goes_on:
            again = receive(simulator, layout, answer(first_packet(layout, asked), sent.packet.mark))
            assert (again.rule, again.verdict, again.events) == (name, "accept", [])


@LAYOUTS
@given(policy=policies(), inside=st.sampled_from(HOSTS), port=st.sampled_from([22, 53, 80, 443]))
def test_the_host_is_closed_ahead_of_everything(
    layout: Layout, policy: NetworkPolicy, inside: str, port: int
) -> None:
    simulator = Simulator(ruleset(policy, layout).text)
    outcome = send(simulator, layout, first_packet(layout, Asked(ip_address(inside), 6, port)))
    assert (outcome.rule, outcome.verdict) == ("egress.host", "reject")


@LAYOUTS
def test_mapped_addresses_are_on_no_wire(layout: Layout) -> None:
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), layout).text)
    mapped = Asked(ip_address("::ffff:203.0.113.5"), 6, 80)
    outcome = send(simulator, layout, first_packet(layout, mapped))
    assert (outcome.rule, outcome.verdict) == ("egress.mapped", "reject")


@LAYOUTS
@pytest.mark.parametrize("state", ["new", "established", "related", "invalid", "untracked"])
@pytest.mark.parametrize("protocol", [1, 6, 17])
def test_nothing_is_opened_from_outside(layout: Layout, state: str, protocol: int) -> None:
    """Even where everything may be opened from inside, and however conntrack took it."""
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), layout).text)
    packet = Packet(ip_address("203.0.113.5"), ip_address(OWN[4]), protocol, 1, 5000, state=state)
    assert receive(simulator, layout, packet).verdict == "drop"


def test_what_was_opened_from_outside_before_the_rules_is_not_answered() -> None:
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), LOCAL).text)
    opened = Packet(ip_address("203.0.113.5"), ip_address(OWN[4]), 6, 40000, 22)
    reply = replace(answer(opened, 0), oif="uplink")
    assert simulator.run("output", reply).verdict == "drop"


def test_what_is_meant_for_the_proxy_is_not_forwarded() -> None:
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), ROUTED_NAMES).text)
    packet = first_packet(ROUTED_NAMES, Asked(ip_address("203.0.113.5"), 6, 80))
    marked = replace(packet, mark=simulator.run("prerouting", packet).packet.mark, oif="uplink")
    outcome = simulator.run("forward", marked)
    assert (outcome.rule, outcome.verdict) == ("egress.host", "reject")


@LAYOUTS
@pytest.mark.parametrize("protocol", [1, 6, 17, 58])
def test_a_fragment_without_ports_passes_by_no_rule(layout: Layout, protocol: int) -> None:
    """One that conntrack left as it is; a rule that denies a port would not see it."""
    policy = NetworkPolicy(
        egress_allowed=True, deny=(Rule("egress.deny.0", "", (), (Ports(Protocol.TCP, 25),)),)
    )
    simulator = Simulator(ruleset(policy, layout).text)
    for destination in ("203.0.113.5", "2001:db8::5"):
        packet = first_packet(layout, Asked(ip_address(destination), protocol, 0))
        outcome = send(simulator, layout, replace(packet, later_fragment=True))
        assert (outcome.rule, outcome.verdict) == ("invalid", "drop")


@LAYOUTS
@pytest.mark.parametrize("mark", [0, 0x00000001])
@pytest.mark.parametrize(
    ("route", "first"), [("lsrr", "203.0.113.5"), ("ssrr", "203.0.113.5"), ("rt", "2001:db8::5")]
)
def test_no_packet_names_another_destination_behind_its_own(
    layout: Layout, mark: int, route: str, first: str
) -> None:
    """Nor one of a connection that was accepted: its rule was asked about the first destination alone."""
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), layout).text)
    packet = first_packet(layout, Asked(ip_address(first), 17, 53))
    known = replace(packet, state="established", mark=mark) if mark else packet
    assert send(simulator, layout, known).verdict == "accept"
    outcome = send(simulator, layout, replace(known, route=route))
    assert (outcome.rule, outcome.verdict) == ("invalid", "drop")


@LAYOUTS
def test_networks_that_the_host_answers_in_are_closed_whole(layout: Layout) -> None:
    """A route of the kind local (ip-route(8)): the host has every address of it."""
    networks = ("198.51.100.0/25", "2001:db8:5::/48")
    wide = frozen_replace(layout, host_addresses=(*layout.host_addresses, *networks))
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), wide).text)
    inside, outside = ("198.51.100.127", "2001:db8:5:ffff::1"), ("198.51.100.128", "2001:db8:6::1")
    for text in (*inside, *outside):
        rule = "egress.host" if text in inside else "egress.default"
        assert send(simulator, wide, first_packet(wide, Asked(ip_address(text), 6, 22))).rule == rule


@LAYOUTS
@pytest.mark.parametrize(("icmp_type", "verdict"), [(3, "accept"), (11, "accept"), (5, "drop"), (8, "drop")])
def test_only_errors_about_a_connection_belong_to_it(layout: Layout, icmp_type: int, verdict: str) -> None:
    """An ICMP redirect is related as well, and would give the sandbox's kernel another route."""
    rules = ruleset(NetworkPolicy(egress_allowed=True), layout, generation=3)
    simulator = Simulator(rules.text)
    error = Packet(
        *(ip_address("203.0.113.5"), ip_address(OWN[4]), 1),
        icmp_type=icmp_type,
        state="related",
        direction="reply",
        status=CONFIRMED,
        mark=3 << 16 | 1,
        original=(ip_address("203.0.113.5"), 80),
    )
    assert receive(simulator, layout, error).verdict == verdict
    assert receive(simulator, layout, replace(error, mark=2 << 16 | 1)).verdict == "drop"


@LAYOUTS
def test_a_rule_for_icmp_lets_no_connection_pass_by_an_error_about_it(layout: Layout) -> None:
    """An error shares the mark of its connection, and must not set it."""
    policy = NetworkPolicy(allow=(Rule("egress.allow.0", "", (), (Ports(Protocol.ICMP),)),))
    simulator = Simulator(ruleset(policy, layout, generation=1).text)
    packet = first_packet(layout, Asked(ip_address("203.0.113.5"), 1, 0))
    error = replace(packet, state="related", icmp_type=3, original=(ip_address("203.0.113.5"), 25))
    outcome = send(simulator, layout, error)
    assert (outcome.verdict, outcome.packet.mark) == ("drop", 0)


@pytest.mark.parametrize("layout", [LOCAL, ROUTED], ids=_name)
@pytest.mark.parametrize(("kind", "hop_limit", "verdict"), [(135, 255, "accept"), (135, 64, "drop")])
def test_neighbours_are_found(layout: Layout, kind: int, hop_limit: int, verdict: str) -> None:
    simulator = Simulator(ruleset(NetworkPolicy(), layout).text)
    packet = Packet(
        *(ip_address("fe80::1"), ip_address("fd00::15"), 58),
        icmp_type=kind,
        state="untracked",
        iif="uplink",
        hop_limit=hop_limit,
    )
    assert simulator.run("input", packet).verdict == verdict
    assert simulator.run("input", replace(packet, icmp_type=134)).verdict == "drop"  # a router's word


@pytest.mark.parametrize("layout", [LOCAL, NAMES, LocalLayout()], ids=["uplink", "names", "alone"])
@pytest.mark.parametrize("destination", ["127.0.0.1", "127.255.255.255", "::1"])
def test_a_sandbox_talks_with_itself(layout: LocalLayout, destination: str) -> None:
    simulator = Simulator(ruleset(NetworkPolicy(), layout).text)
    packet = Packet(ip_address(destination), ip_address(destination), 6, 1, 80, oif="lo")
    assert simulator.run("output", packet).verdict == "accept"
    assert simulator.run("postrouting", packet).verdict == "accept"
    assert simulator.run("input", replace(packet, oif="", iif="lo")).verdict == "accept"


def test_the_loopback_device_is_free_by_address_only() -> None:
    """Where nothing leads out, every address is routed to it."""
    layout = LocalLayout(proxy_port=3128, redirect_port=3129, dns_port=3053)
    simulator = Simulator(ruleset(NetworkPolicy(), layout).text)
    packet = Packet(ip_address("203.0.113.5"), ip_address("203.0.113.5"), 6, 1, 22, oif="lo")
    outcome = simulator.run("output", packet)
    assert (outcome.rule, outcome.verdict) == ("egress.default", "reject")
    assert simulator.run("input", replace(packet, iif="lo", oif="")).verdict == "drop"


def test_an_allowed_address_without_an_uplink_is_nobody() -> None:
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), LocalLayout()).text)
    packet = Packet(ip_address("203.0.113.5"), ip_address("203.0.113.5"), 6, 1, 22, oif="lo")
    accepted = simulator.run("output", packet).packet
    assert simulator.run("input", replace(accepted, iif="lo", oif="")).verdict == "drop"
    assert simulator.run("postrouting", replace(accepted, oif="eth0")).verdict == "drop"


def test_what_was_judged_by_the_rules_before_does_not_leave_under_these() -> None:
    """Rules are replaced between the two hooks: the packet that was on its way to the proxy stays."""
    before = Simulator(ruleset(NetworkPolicy(), NAMES, generation=1).text)
    after = Simulator(ruleset(NetworkPolicy(egress_allowed=True), LOCAL, generation=2).text)
    packet = first_packet(NAMES, Asked(ip_address("203.0.113.5"), 6, 80))
    marked = replace(packet, mark=before.run("output", packet).packet.mark)
    assert after.run("postrouting", marked).verdict == "drop"
    assert before.run("postrouting", marked).verdict == "drop"


@pytest.mark.parametrize(
    ("source", "verdict"),
    [("192.0.2.15", "accept"), ("192.0.2.16", "drop"), ("fd00::15", "accept"), ("fd00::16", "drop")],
)
def test_a_machine_has_its_own_addresses_only(source: str, verdict: str) -> None:
    policy = NetworkPolicy(egress_allowed=True)
    simulator = Simulator(ruleset(policy, ROUTED).text)
    there: Address = ip_address("203.0.113.5" if "." in source else "2001:db8::5")
    outcome = simulator.run("prerouting", Packet(ip_address(source), there, 6, 1, 80, iif="tap0"))
    assert outcome.verdict == verdict
    assert outcome.rule == ("egress.default" if verdict == "accept" else "egress.spoofed")


def test_a_machine_without_addresses_of_a_family_has_none_to_send_from() -> None:
    layout = RoutedLayout(uplink="uplink", guest=("192.0.2.15",), gateway=("192.0.2.1",))
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), layout).text)
    packet = Packet(ip_address("fd00::15"), ip_address("2001:db8::5"), 6, 1, 80, iif="tap0")
    assert simulator.run("prerouting", packet).rule == "egress.spoofed"


@pytest.mark.parametrize("gateway", GATEWAY)
@pytest.mark.parametrize(
    ("protocol", "port", "verdict"),
    [
        *((6, 3128, "accept"), (6, 3129, "accept"), (6, 3053, "accept"), (17, 3053, "accept")),
        *((6, 8080, "accept"), (17, 8080, "reject"), (17, 3128, "reject"), (6, 22, "reject")),
        *((6, 80, "reject"), (6, 443, "reject"), (17, 53, "accept"), (6, 53, "accept")),
    ],
)
def test_the_gateway_answers_where_the_proxy_listens(
    gateway: str, protocol: int, port: int, verdict: str
) -> None:
    """Name servers are asked at port 53 of whichever address."""
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), ROUTED_NAMES).text)
    outcome = send(
        simulator, ROUTED_NAMES, first_packet(ROUTED_NAMES, Asked(ip_address(gateway), protocol, port))
    )
    assert outcome.verdict == verdict
    if verdict == "reject":
        assert outcome.rule == "egress.host"


def test_the_gateway_answers_no_echo() -> None:
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), ROUTED_NAMES).text)
    for gateway in GATEWAY:
        asked = Asked(ip_address(gateway), ICMP[ip_address(gateway).version], 0)
        assert send(simulator, ROUTED_NAMES, first_packet(ROUTED_NAMES, asked)).rule == "egress.host"


def test_an_address_of_the_namespace_on_the_uplink_is_the_hosts() -> None:
    """The rules allow the address; that it is ours, routing finds."""
    simulator = Simulator(ruleset(NetworkPolicy(egress_allowed=True), ROUTED).text)
    packet = first_packet(ROUTED, Asked(ip_address("203.0.113.5"), 6, 22))
    accepted = simulator.run("prerouting", packet).packet
    outcome = simulator.run("input", accepted)
    assert (outcome.rule, outcome.verdict) == ("egress.host", "reject")


@pytest.mark.parametrize(("port", "rule"), [(5000, "mapping.0"), (5001, "ingress.default")])
def test_a_machine_is_reached_at_mapped_ports(port: int, rule: str) -> None:
    simulator = Simulator(ruleset(NetworkPolicy(mappings=(MAPPED,)), ROUTED).text)
    ours, guest = ip_address(GATEWAY[0]), ip_address(OWN[4])
    outcome = simulator.run("output", Packet(ours, guest, 6, 40000, port, oif="tap0"))
    mapped = rule == "mapping.0"
    assert (outcome.rule, outcome.verdict) == (rule, "accept" if mapped else "drop")
    reply = answer(Packet(ours, guest, 6, 40000, port), outcome.packet.mark)
    came = simulator.run("prerouting", replace(reply, iif="tap0"))
    assert (came.rule, came.verdict) == (rule, "accept" if mapped else "drop")
    assert simulator.run("input", replace(reply, iif="tap0")).verdict == ("accept" if mapped else "drop")


@pytest.mark.parametrize("layout", [NAMES, ROUTED_NAMES], ids=_name)
def test_a_redirected_connection_stays_with_the_proxy(layout: Layout) -> None:
    """After a replacement; and where its address is denied now, it ends."""
    asked = Asked(ip_address("203.0.113.5"), 6, 443)
    stale = replace(
        first_packet(layout, asked), state="established", status=CONFIRMED | DNAT, mark=7 << 16 | 1
    )
    simulator = Simulator(ruleset(NetworkPolicy(), layout, generation=8).text)
    outcome = simulator.run("output" if isinstance(layout, LocalLayout) else "prerouting", stale)
    assert (outcome.rule, outcome.verdict, outcome.events) == ("egress.redirect", "accept", [])
    denying = NetworkPolicy(deny=(Rule("egress.deny.0", "", (Peer("203.0.113.0/24"),)),))
    simulator = Simulator(ruleset(denying, layout, generation=8).text)
    outcome = simulator.run("output" if isinstance(layout, LocalLayout) else "prerouting", stale)
    assert (outcome.rule, outcome.verdict) == ("egress.deny.0", "reject")


def test_all_of_a_peer_excepted_is_nothing_not_everything() -> None:
    rule = Rule("egress.allow.0", "", (Peer("10.0.0.0/8", ("10.0.0.0/9", "10.128.0.0/9")),))
    simulator = Simulator(ruleset(NetworkPolicy(allow=(rule,)), LOCAL).text)
    for destination in ("10.0.0.1", "203.0.113.5", "2001:db8::5"):
        outcome = send(simulator, LOCAL, first_packet(LOCAL, Asked(ip_address(destination), 6, 80)))
        assert outcome.rule == "egress.default"
