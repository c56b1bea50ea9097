"""The rules of a network hold, on every backend: what they allow is reached, and nothing else.

One sandbox for each policy of the tables and each flavour tries all that the policy's cases are about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.e2e.commands import wait_until
from tests.network.cases import Expected, Policy, to
from tests.network.flavours import FLAVOURS
from tests.network.lab import Lab, Ran
from tests.network.table import ADDRESSES
from tests.network.table_legacy import LEGACY
from tests.network.table_ports import PORTS
from tests.network.table_wide import WIDE

pytest_plugins = ("tests.network.fixtures",)

TABLE = (*ADDRESSES, *PORTS, *WIDE, *LEGACY)
ON_EACH = pytest.mark.parametrize("flavour", FLAVOURS)
GUEST = ("192.0.0.2", "fdb5:6d78:63::2")
"""A machine's addresses, which only its gate knows."""
ECHOED = "192.0.2.7", "2001:db8:2::7"


def test_the_table_is_large_and_every_case_has_both_sides() -> None:
    cases = [case for policy in TABLE for case in policy.cases]
    assert len(cases) >= 80
    one_sided = [case.about for case in cases if len({one.reached for one in case.expected}) < 2]
    assert one_sided == []


@pytest.mark.parametrize("policy", [pytest.param(policy, id=policy.name) for policy in TABLE])
@ON_EACH
def test_what_is_allowed_is_reached_and_nothing_else(lab: Lab, policy: Policy) -> None:
    hold(
        lab, policy, [(case.about, one) for case in policy.cases for one in case.expected], lab.flavour.itself
    )


def hold(
    lab: Lab, policy: Policy, expected: Sequence[tuple[str, Expected]], itself: tuple[str, ...] = ()
) -> None:
    """Try what is expected, each with what it is about, in a sandbox that has the addresses `itself`."""
    document = lab.document(policy.sections)
    ran = lab.run(document, [one.as_probe() for _, one in expected])
    events = {_decision(event): event["verdict"] for event in ran.events}
    came = {tuple(one) for link in (lab.bed.out_there, lab.bed.on_host) for one in link.ask("seen")}
    wrong = [
        f"{about}: {one}: expected {_wanted(one)}, got {fault}"
        for (about, one), told in zip(expected, ran.probes, strict=True)
        if (fault := _fault(one, told, events, came, itself))
    ]
    assert not wrong, "\n".join([*wrong, lab.rules(document)])


def _wanted(one: Expected) -> str:
    return f"{'an answer' if one.reached else 'no answer'}, by {one.rule or 'no rule'}"


def _fault(
    one: Expected,
    told: Mapping[str, Any],
    events: Mapping[tuple[Any, ...], str],
    came: set[tuple[Any, ...]],
    itself: tuple[str, ...],
) -> str:
    """What is not as it should be; "" when all is.

    Of `itself`, its own addresses, a sandbox's kernel answers pings, and no rule is asked.
    """
    own = one.address in itself
    if told["reached"] is not (one.reached or (own and one.kind == "icmp")):
        return f"{told['reached']}: {told['said']}"
    if one.kind == "tcp" and told["said"].startswith("tcp ") and told["said"].split()[1] != one.address:
        return f"an answer of {told['said']}"
    if not one.reached and (one.protocol, one.address, one.port) in came:
        return "no answer, though it came there"
    if one.rule is None or own:
        return ""
    verdict = events.get((one.protocol, one.address, one.port, one.rule))
    if verdict != ("allowed" if one.reached else "denied"):
        others = [key for key in events if key[:3] == (one.protocol, one.address, one.port)]
        return f"{told['said']}; {verdict} in the events, which have {others}"
    return ""


def _decision(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return event["protocol"], event["address"], event.get("port"), event["rule"]


# --- what is counted -------------------------------------------------------------------------------


@ON_EACH
def test_counters_are_exact_in_both_directions(lab: Lab) -> None:
    """Datagrams of known sizes: what was sent, what came back, and what was refused."""
    rules = [
        to("192.0.2.7", ports=({"protocol": "udp", "port": 8000},)),
        to("2001:db8:2::7", ports=({"protocol": "udp", "port": 8000},)),
        to("192.0.2.7", ports=({"protocol": "icmp"},)),
        to("192.0.2.8"),
    ]
    egress = {"allow": rules, "deny": [to("192.0.2.99")]}
    probes: list[dict[str, Any]] = [
        *({"kind": "udp", "to": one, "port": 8000, "count": 25, "size": 100} for one in ECHOED),
        {"kind": "icmp", "to": "192.0.2.7", "count": 7},
        *({"kind": "udp", "to": "192.0.2.99", "port": port, "reached": False} for port in (123, 8000, 8001)),
        *({"kind": "udp", "to": "192.0.2.7", "port": port, "reached": False} for port in (123, 8001)),
    ]
    ran = lab.run(lab.document({"network": {"egress": egress}}), probes)
    assert [told["reached"] for told in ran.probes] == [True] * 3 + [False] * 5, ran.probes
    answer = len(b"udp ")
    wanted = {
        "egress.allow.0": (50, 25 * (2 * (20 + 8 + 100) + answer)),
        "egress.allow.1": (50, 25 * (2 * (40 + 8 + 100) + answer)),
        "egress.allow.2": (14, 14 * (20 + 8 + 5)),
        "egress.allow.3": (0, 0),
        "egress.deny.0": (3, 3 * 29),
        "egress.default": (2, 2 * 29),
    }
    assert {rule: ran.counts[rule] for rule in wanted} == wanted


@ON_EACH
def test_who_is_denied_is_told_so_however_often(lab: Lab) -> None:
    """By an answer: a client that hears nothing tries for minutes."""
    probes = [
        {"kind": kind, "to": address, "port": port, "reached": False, "wait": 15}
        for kind, port in (("tcp", 8000), ("tcp", 8001), ("udp", 8000), ("udp", 8001), ("icmp", None))
        for address in ("192.0.2.8", "192.0.2.9", "192.0.2.10", "2001:db8:2::8", "2001:db8:2::9")
    ]
    ran = lab.run(lab.document({"network": {"egress": {"allow": [to("192.0.2.7")]}}}), probes)
    silent = [
        (probe["kind"], probe["to"], probe["port"])
        for probe, told in zip(probes, ran.probes, strict=True)
        if told["reached"] or told["said"].startswith("TimeoutError")
    ]
    assert silent == []


@ON_EACH
def test_each_denial_is_told_once_with_how_often_it_was(lab: Lab) -> None:
    egress = {"allow": [to("192.0.2.7")], "deny": [to("192.0.2.99")]}
    probes = [
        *[{"kind": "tcp", "to": "192.0.2.99", "port": 8000, "reached": False} for _ in range(3)],
        {"kind": "udp", "to": "2001:db8:2::9", "port": 8001, "reached": False},
        {"kind": "icmp", "to": "192.0.2.99", "reached": False},
        {"kind": "tcp", "to": "192.0.2.7", "port": 8000},
    ]
    ran = lab.run(lab.document({"network": {"egress": egress}}), probes)
    assert [told["reached"] for told in ran.probes] == [False] * 5 + [True], ran.probes
    told = sorted(ran.result["denials"], key=lambda one: (one["rule"], one["protocol"]))
    common = {"source": "rules"}
    assert told == [
        common
        | {"protocol": "udp", "address": "2001:db8:2::9", "port": 8001, "rule": "egress.default", "count": 1},
        common | {"protocol": "icmp", "address": "192.0.2.99", "rule": "egress.deny.0", "count": 1},
        common
        | {"protocol": "tcp", "address": "192.0.2.99", "port": 8000, "rule": "egress.deny.0", "count": 3},
    ]


# --- from outside ----------------------------------------------------------------------------------

BOARD = "192.0.2.90"
LISTENING = {"kind": "serve", "to": "0.0.0.0", "port": 5555, "board": BOARD}


@pytest.mark.parametrize("default", ["deny", "allow"])
@ON_EACH
def test_nobody_outside_reaches_what_listens_in_a_sandbox(lab: Lab, default: str) -> None:
    """Not the host, nor who is beyond it, at any address that could be the sandbox's."""
    bed = lab.bed
    bed.forget_neighbours()
    egress = {"default": default, "allow": [to(BOARD, "2001:db8:2::7")]}
    probes = [
        LISTENING | {"protocol": "tcp", "key": "tcp"},
        LISTENING | {"protocol": "udp", "key": "udp"},
        LISTENING | {"protocol": "tcp", "to": "::", "port": 5556, "key": "six"},
        {"kind": "tcp", "to": "2001:db8:2::7", "port": 8000},
    ]
    ending = lab.start(lab.document({"network": {"egress": egress}}), probes)
    for key in ("tcp", "udp", "six"):
        assert bed.out_there.ask("heard", key=key) == "up"
    addresses = _outside_addresses(lab)
    dials = [
        link.send("dial", protocol=protocol, address=address, port=port, send="in")
        for link in (bed.on_host, bed.out_there)
        for address in addresses
        for protocol, port in (("tcp", 5555), ("udp", 5555), ("tcp", 5556))
    ]
    answers = [dial.result(30) for dial in dials]
    if lab.flavour.is_machine:
        answers += _past_the_gate(lab, addresses)
    for key in ("tcp", "udp", "six"):
        bed.out_there.ask("tell", key=f"{key}-end", value="end")
    ran: Ran = ending()
    assert set(answers) == {None}
    assert [told["said"] for told in ran.probes[:3]] == ["[]"] * 3, ran.probes


def _outside_addresses(lab: Lab, *, families: int = 2) -> list[str]:
    """Those that the one sandbox there is could be reached at, of IPv4 and then IPv6, once it has sent."""
    if lab.flavour.itself:
        return list(lab.flavour.itself[:families])

    def known() -> list[str]:
        return sorted(lab.bed.neighbours(), key=lambda address: ":" in address)

    wait_until(
        lambda: len({":" in address for address in known()}) >= families, "the host hears nothing of it"
    )
    return known()


def _past_the_gate(lab: Lab, addresses: list[str]) -> list[str | None]:
    """What the host hears from the machine itself when it takes the sandbox's place for a router."""
    routes = [[guest, "via", gate] for guest, gate in zip(GUEST, addresses, strict=True)]
    for route in routes:
        lab.bed.run(["ip", "route", "add", *route])
    dials = [
        lab.bed.on_host.send("dial", protocol=protocol, address=guest, port=port, send="in")
        for guest in GUEST
        for protocol, port in (("tcp", 5555), ("udp", 5555), ("tcp", 5556))
    ]
    answers = [dial.result(30) for dial in dials]
    for route in routes:
        lab.bed.run(["ip", "route", "del", *route])
    return answers


@ON_EACH
def test_nothing_leaves_a_sandbox_with_an_address_that_is_not_its_own(lab: Lab) -> None:
    """Not even to where it may send: the answers would be another's, and the rules are by its own."""
    source = ("192.0.0.9", "10.187.3.250", "198.51.100.9", "fdb5:6d78:62::3fa", "2001:db8:3::9")
    forged = [
        {"kind": "forged", "source": one, "to": ECHOED[":" in one], "port": 8001, "wait": 5} for one in source
    ]
    honest = [{"kind": "udp", "to": one, "port": 8000} for one in ECHOED]
    egress = {"allow": [to(*ECHOED)]}
    ran = lab.run(lab.document({"network": {"egress": egress}}), [*honest, *forged])
    assert [told["reached"] for told in ran.probes[:2]] == [True, True], ran.probes
    came = [tuple(one) for one in lab.bed.out_there.ask("seen")]
    assert sorted(came) == [("udp", one, 8000) for one in ECHOED], ran.probes


@ON_EACH
def test_sandboxes_do_not_reach_each_other(lab: Lab) -> None:
    bed = lab.bed
    bed.forget_neighbours()
    everything = lab.document({"network": {"egress": {"default": "allow"}}})
    ending = lab.start(everything, [LISTENING | {"protocol": "tcp", "key": "first"}])
    assert bed.out_there.ask("heard", key="first") == "up"
    addresses = _outside_addresses(lab, families=1)
    probes: list[dict[str, Any]] = [
        {"kind": "tcp", "to": address, "port": 5555, "reached": False} for address in addresses
    ]
    other = lab.run(everything, [*probes, {"kind": "tcp", "to": BOARD, "port": 8000}])
    bed.out_there.ask("tell", key="first-end", value="end")
    ran = ending()
    assert [told["reached"] for told in other.probes] == [False] * len(probes) + [True], other.probes
    assert ran.probes[0]["said"] == "[]"
    assert ran.counts["ingress.default"] == (0, 0), "what one sends to the other comes as far as its rules"
