"""A sandbox does not get around the rules of its network: not from inside, by whatever it sends or asks for.

Every attack works in a namespace that nothing guards, on the same link: each test shows that first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.network.bed import Bed
from tests.network.cases import to
from tests.network.flavours import FLAVOURS
from tests.network.lab import Lab, Ran
from tests.security.network_attacks import ATTACKS, StandIn, Watch, new_token, stand_in, watched, with_ctypes

pytest_plugins = ("tests.network.fixtures",)

ON_EACH = pytest.mark.parametrize("flavour", FLAVOURS)
ON_EACH_KIND = pytest.mark.parametrize("flavour", [FLAVOURS[0], FLAVOURS[1], FLAVOURS[4]])
"""Of network, that is: LXC has that of bubblewrap."""
SHARING_KERNEL = pytest.mark.parametrize("flavour", FLAVOURS[:4])
ALLOWED, ALLOWED6 = "192.0.2.7", "2001:db8:2::7"
FORBIDDEN, FORBIDDEN6 = "192.0.2.66", "2001:db8:2::66"
ELSEWHERE = "192.0.2.67", "2001:db8:2::67"
"""Where what nothing guards sends, so that it is not taken for anybody else."""
PORTS = ({"protocol": "tcp", "port": 8000}, {"protocol": "udp", "port": 8000})
ONE_ALLOWED = {"network": {"egress": {"allow": [to(ALLOWED, ALLOWED6, ports=PORTS)]}}}
ALL_ALLOWED = {"network": {"egress": {"default": "allow", "deny": [to(FORBIDDEN, FORBIDDEN6)]}}}

Attack = dict[str, Any]


@pytest.fixture(scope="module")
def watches(bed: Bed) -> Iterator[tuple[Watch, Watch]]:
    with watched(bed) as both:
        yield both


@pytest.fixture(scope="module")
def bare(bed: Bed) -> Iterator[StandIn]:
    with stand_in(bed) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def python_with_ctypes(portable_python: Path) -> None:
    with_ctypes(portable_python)


def attack(lab: Lab, sections: dict[str, Any], attacks: Sequence[Attack]) -> Ran:
    """All of them at once, in one sandbox, which also reaches what it may; `probes` has the attacks alone."""
    control = [{"kind": "udp", "to": one, "port": 8000, "after": 0.7} for one in (ALLOWED, ALLOWED6)]
    document = lab.document(sections, source=ATTACKS)
    ran = lab.run(document, [*({"wait": 1.5, **one, "reached": False} for one in attacks), *control])
    assert [told["reached"] for told in ran.probes[-2:]] == [True, True], ran.probes[-2:]
    del ran.probes[-2:]
    return ran


# --- the kernel's doors --------------------------------------------------------------------------------

DOORS: tuple[Attack, ...] = (
    *(
        {"kind": kind}
        for kind in ("own_address", "own_route", "own_neighbour", "own_routing_rule", "own_queue")
    ),
    *({"kind": kind} for kind in ("forget_connections", "link_ioctls", "settings", "flush_rules")),
    *({"kind": kind} for kind in ("mark", "transparent", "transparent6", "big_buffers", "packets")),
    *({"kind": "raw", "protocol": protocol} for protocol in (1, 6, 17, 47, 255)),
    *({"kind": "raw", "family": 10, "protocol": protocol} for protocol in (6, 17, 58, 255)),
    *({"kind": kind} for kind in ("own_network", "device", "program", "link_down")),
)
KINDS: tuple[Attack, ...] = ({"kind": "families"}, {"kind": "netlinks"}, {"kind": "own_users"})


def test_the_doors_open_for_who_has_the_right(bare: StandIn) -> None:
    told = bare.run([*DOORS, *KINDS])
    assert [
        (one["kind"], said["said"])
        for one, said in zip([*DOORS, *KINDS], told, strict=True)
        if not said["reached"]
    ] == []


@ON_EACH
def test_nothing_of_the_network_can_be_changed_from_inside(lab: Lab) -> None:
    told = attack(lab, ALL_ALLOWED, DOORS).probes
    assert [(one, said["said"]) for one, said in zip(DOORS, told, strict=True) if said["reached"]] == []


@SHARING_KERNEL
def test_no_other_kind_of_socket_can_be_made(lab: Lab) -> None:
    told = attack(lab, ALL_ALLOWED, KINDS).probes
    assert [said["said"] for said in told if said["reached"]] == []


# --- ways around ---------------------------------------------------------------------------------------


def around(token: str, to4: str = FORBIDDEN, to6: str = FORBIDDEN6) -> tuple[Attack, ...]:
    """What is forbidden, in every way that takes no right."""
    four: Attack = {"to": to4, "first": ALLOWED, "port": 8000, "token": token}
    six: Attack = {"to": to6, "first": ALLOWED6, "port": 8000, "token": token}
    kinds = ("plainly", "stream", "in_fragments", "then_elsewhere", "bound_to_link", "echo_request")
    return (
        *({"kind": kind, **which} for kind in (*kinds, "by_several_paths") for which in (four, six)),
        *({"kind": kind, **four} for kind in ("mapped", "mapped_stream", "in_first_segment")),
        *({"kind": "plainly", **which, "port": 123} for which in (four, six)),
    )


NOT_ON_THE_WIRE = ("in_first_segment",)
"""Without a cookie of the server's, no data is in the first segment: that one came is all that is seen."""


def elsewhere(token: str) -> tuple[Attack, ...]:
    """Addresses that stand for others, or for everybody on the link."""
    six = (f"::{FORBIDDEN}", f"64:ff9b::{FORBIDDEN}", f"::ffff:0:{FORBIDDEN}", "2002:c000:242::1")
    everybody = ("255.255.255.255", "10.187.3.255", "224.0.0.1", "ff02::1", "ff05::1", "fe80::1")
    return (
        *({"kind": "plainly", "to": one, "port": 8000, "token": token} for one in six),
        *({"kind": "to_everybody", "to": one, "port": 8000, "token": token} for one in everybody),
        *({"kind": "transports", "to": FORBIDDEN, "port": 8000, "token": token},),
    )


def test_every_way_leads_there_where_nothing_guards_it(bare: StandIn, watches: tuple[Watch, Watch]) -> None:
    silent: list[Attack] = []
    for one in around("", *ELSEWHERE):
        watches[1].forget()
        token = new_token()
        bare.run([{**one, "token": token}])
        came = (
            watches[1].to_or_from(one["to"]) if one["kind"] in NOT_ON_THE_WIRE else watches[1].carrying(token)
        )
        silent += [] if came else [one]
    assert silent == []


@ON_EACH_KIND
def test_no_way_around_a_rule(lab: Lab, watches: tuple[Watch, Watch]) -> None:
    for watch in watches:
        watch.forget()
    forbidden = new_token()
    attack(lab, ONE_ALLOWED, [*around(forbidden), *elsewhere(forbidden)])
    assert [one for watch in watches for one in watch.carrying(forbidden)] == []
    assert [one for watch in watches for one in watch.to_or_from(FORBIDDEN, FORBIDDEN6)] == []


def by_way_of(token: str) -> tuple[Attack, ...]:
    """To what is allowed, and behind it to what is not."""
    four: Attack = {"kind": "source_route", "to": FORBIDDEN, "first": ALLOWED}
    six: Attack = {"kind": "source_route6", "to": FORBIDDEN6, "first": ALLOWED6, "kind_of_header": 4}
    return tuple({**one, "port": 8000, "token": token} for one in (four, six))


def test_a_packet_may_name_two_destinations_where_nothing_guards_it(
    bare: StandIn, watches: tuple[Watch, Watch]
) -> None:
    """The host's kernel, too, may be told to take the second one."""
    for one in by_way_of(new_token()):
        bare.run([one])
        assert watches[0].carrying(one["token"]), one


@ON_EACH_KIND
def test_no_packet_names_two_destinations(lab: Lab, watches: tuple[Watch, Watch]) -> None:
    token = new_token()
    attack(lab, ALL_ALLOWED, by_way_of(token))
    assert [one for watch in watches for one in watch.carrying(token)] == []


@ON_EACH_KIND
def test_a_denied_address_is_denied_in_the_clothes_of_ipv6(lab: Lab, watches: tuple[Watch, Watch]) -> None:
    """As a network with NAT64 would take it (RFC 6052 §2.1): the proxy denies it so, too."""
    token = new_token()
    clothes = {"kind": "plainly", "to": f"64:ff9b::{FORBIDDEN}", "port": 8000, "token": token}
    attack(lab, ALL_ALLOWED, [clothes])
    assert [one for watch in watches for one in watch.carrying(token)] == []


# --- whose packets they are -----------------------------------------------------------------------------


def spoofs(token: str) -> tuple[Attack, ...]:
    """Sources that are not the sandbox's: nobody's, and those of others on the link and beyond."""
    sources = {
        ALLOWED: ("10.187.3.77", "203.0.113.1", "192.0.2.9"),
        ALLOWED6: ("fdb5:6d78:62::77", "2001:db8:2::9"),
    }
    return tuple(
        {"kind": kind, "to": target, "source": source, "port": 8000, "token": token}
        for kind in ("from_elsewhere", "from_elsewhere_once")
        for target, found in sources.items()
        for source in found
    )


def test_a_source_can_be_made_up_where_nothing_guards_it(bare: StandIn, watches: tuple[Watch, Watch]) -> None:
    """Of IPv6 alone: in IPv4 the system itself refuses to send under such a one."""
    token = new_token()
    bare.run([one for one in spoofs(token) if ":" in one["to"]])
    assert {one.source for one in watches[0].carrying(token)} >= {"fdb5:6d78:62::77", "2001:db8:2::9"}


@ON_EACH_KIND
def test_no_packet_leaves_under_a_source_that_is_not_the_sandboxs(
    lab: Lab, watches: tuple[Watch, Watch]
) -> None:
    spoofed = new_token()
    attack(lab, ALL_ALLOWED, spoofs(spoofed))
    assert [one for watch in watches for one in watch.carrying(spoofed)] == []


# --- the host ------------------------------------------------------------------------------------------

HOSTS = ("203.0.113.2", "2001:db8:113::2", "10.187.0.1", "fdb5:6d78:62::1")
LOOPBACK = ("127.0.0.1", "127.0.0.53", "::1")


def at_host(lab: Lab, attacks: Sequence[Attack]) -> list[list[Any]]:
    """What came in at the host's own servers, of a sandbox that may reach everything else."""
    lab.bed.on_host.ask("seen")
    attack(lab, ALL_ALLOWED, attacks)
    return lab.bed.on_host.ask("seen")


@ON_EACH_KIND
def test_the_hosts_addresses_are_closed_whatever_is_allowed(lab: Lab) -> None:
    attacks = [
        {"kind": kind, "to": one, "port": 8000, "token": "x"}
        for kind in ("plainly", "stream", "bound_to_link", "stream_bound_to_link")
        for one in HOSTS
    ]
    assert at_host(lab, attacks) == []


@ON_EACH_KIND
def test_the_hosts_loopback_is_not_reached_by_naming_the_link(lab: Lab) -> None:
    """A socket that is bound to the link sends what is for loopback there, and a helper may pass it on."""
    sources = {"127.0.0.1": "203.0.113.2", "127.0.0.53": "203.0.113.2", "::1": "2001:db8:113::2"}
    attacks: list[Attack] = [
        *(
            {"kind": kind, "to": one}
            for kind in ("bound_to_link", "stream_bound_to_link")
            for one in LOOPBACK
        ),
        *({"kind": "stream_bound_to_link", "to": one, "source": ours} for one, ours in sources.items()),
        *({"kind": "plainly", "to": one} for one in LOOPBACK),
    ]
    assert at_host(lab, [{"port": 8000, "token": "x", **one} for one in attacks]) == []


@ON_EACH_KIND
def test_the_host_is_not_reached_as_one_of_many(lab: Lab) -> None:
    """Broadcast and multicast: what listens at every address gets them."""
    everybody = ("255.255.255.255", "10.187.3.255", "203.0.113.255", "224.0.0.1", "ff02::1", "ff05::1")
    attacks = [{"kind": "to_everybody", "to": one, "port": 8000, "token": "x"} for one in everybody]
    assert at_host(lab, attacks) == []


@ON_EACH_KIND
def test_an_address_that_the_host_gets_later_is_closed_too(lab: Lab) -> None:
    later = {"203.0.113.77": "203.0.113.77/24", "2001:db8:113::77": "2001:db8:113::77/64"}
    late: list[Attack] = [
        {"kind": "tcp", "to": one, "port": 8000, "reached": False, "after": 1} for one in later
    ]
    bed, board = lab.bed, "192.0.2.90"
    serving = {
        "kind": "serve",
        "to": "127.0.0.1",
        "port": 5555,
        "protocol": "tcp",
        "key": "late",
        "board": board,
    }
    ending = lab.start(lab.document(ALL_ALLOWED, source=ATTACKS), [serving, *late])
    assert bed.out_there.ask("heard", key="late") == "up"
    bed.on_host.ask("seen")
    try:
        for address in later.values():
            bed.run(["ip", "addr", "add", address, "dev", "wan", *(["nodad"] if ":" in address else [])])
        bed.out_there.ask("tell", key="late-end", value="end")
        ran = ending()
    finally:
        for address in later.values():
            bed.run(["ip", "addr", "del", address, "dev", "wan"])
    assert [told["reached"] for told in ran.probes] == [True, False, False], ran.probes
    assert bed.on_host.ask("seen") == []
