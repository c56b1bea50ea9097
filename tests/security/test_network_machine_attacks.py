"""Whoever owns the kernel of a guest, and all that it sends, gets no further than the rules let it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.images import image
from tests.network.bed import Bed
from tests.network.cases import to
from tests.network.link import Link
from tests.security.network_attacks import (
    Front,
    Seen,
    StandIn,
    Watch,
    attack_source,
    front,
    new_token,
    stand_in,
    watched,
)

pytest_plugins = ("tests.network.fixtures",)
pytestmark = pytest.mark.backend("microvm")

ALLOWED, ALLOWED6, BOARD = "192.0.2.7", "2001:db8:2::7", "192.0.2.90"
FORBIDDEN, FORBIDDEN6 = "192.0.2.66", "2001:db8:2::66"
PORTS = ({"protocol": "tcp", "port": 8000}, {"protocol": "udp", "port": 8000})
ONE_ALLOWED = {"network": {"egress": {"allow": [to(ALLOWED, ALLOWED6, ports=PORTS)]}}}
ALL_ALLOWED = {"network": {"egress": {"default": "allow", "deny": [to(FORBIDDEN, FORBIDDEN6)]}}}
SOURCE = attack_source("network_inside", "network_packets", "network_frames")
GUEST = {
    "link": "eth0", "four": "192.0.0.2", "six": "fdb5:6d78:63::2",
    "gateway": "192.0.0.1", "gateway6": "fdb5:6d78:63::1",
    "allowed": ALLOWED, "allowed6": ALLOWED6, "forbidden": FORBIDDEN, "forbidden6": FORBIDDEN6,
}  # fmt: skip
AS_ROOT = """
import mxc_ops
from backends.frozen import replace
from backends.vm import one_run

_as_planned = one_run.OneRun._command
one_run.OneRun._command = lambda run: replace(_as_planned(run), user=(0, 0), privileged=True, seccomp=b"")

def main(given):
    return mxc_ops.run(given["document"], input=given["input"].encode()).as_dict()
"""
"""The agent runs the command with all rights in the guest, as an owner of its kernel has them."""


@pytest.fixture(scope="module")
def watches(bed: Bed) -> Iterator[tuple[Watch, Watch]]:
    with watched(bed) as both:
        yield both


@pytest.fixture(scope="module")
def bare(bed: Bed) -> Iterator[StandIn]:
    with stand_in(bed) as made:
        yield made


@pytest.fixture(scope="module")
def own(bed: Bed, callers: dict[str, Link]) -> Iterator[Front]:
    image("python")
    with front(bed, None) as made:
        yield made


def as_root(own: Front, sections: dict[str, Any], *probes: dict[str, Any]) -> list[dict[str, Any]]:
    document = {
        "version": "1.1.0-alpha",
        "containment": "microvm",
        "process": {"timeout": 60_000},
        **sections,
        "mxcOps": {
            **sections.get("mxcOps", {}),
            "args": ["/usr/bin/python3", "-c", SOURCE],
            "vm": {"command": "args", "image": "python"},
        },
    }
    given = {"document": document, "input": json.dumps([{"wait": 5, **one} for one in probes]) + "\n"}
    result = own.link.ask("script", source=AS_ROOT, function="main", given=given)
    lines = [json.loads(line) for line in result["stdout"]["data"].splitlines()]
    found = {line["probe"]: line for line in lines}
    assert result["exitCode"] == 0 and len([key for key in found if key >= 0]) == len(probes), result
    return [found[number] for number in range(len(probes))]


def sent(own: Front, sections: dict[str, Any], token: str) -> list[str]:
    """The names of all attacks, which a guest has made."""
    [told] = as_root(own, sections, {"kind": "frames", **GUEST, "token": token})
    assert told["reached"], told
    return told["said"].split()


def leaked(watches: tuple[Watch, Watch], token: str, names: Sequence[str]) -> dict[str, list[Seen]]:
    """What of each came out of the machine's gate."""
    found = {name: [one for watch in watches for one in watch.carrying(f"{token}:{name}:")] for name in names}
    return {name: seen for name, seen in found.items() if seen}


BY_ANY_LINK = {
    *("plain", "closed_ports", "streams_without_a_beginning", "other_protocols", "pieces", "pieces6"),
    *("headers_before_it", "spoofed", "errors", "claims", "the_host", "mapped_addresses"),
}
"""What of the attacks Linux carries, or answers, where no rule keeps it from that."""


def test_frames_go_where_nothing_guards_them(bare: StandIn, watches: tuple[Watch, Watch]) -> None:
    token = new_token()
    elsewhere = {"forbidden": "192.0.2.67", "forbidden6": "2001:db8:2::67"}
    there = {**GUEST, **elsewhere, "link": "uplink", "four": StandIn.ADDRESS, "six": StandIn.ADDRESS6}
    near = {"gateway": "10.187.0.1", "gateway6": "fdb5:6d78:62::1"}
    [told] = bare.run([{"kind": "frames", **there, **near, "token": token}], SOURCE)
    assert set(leaked(watches, token, told["said"].split())) >= BY_ANY_LINK


def test_a_guest_that_makes_frames_itself_reaches_what_is_allowed(
    own: Front, watches: tuple[Watch, Watch]
) -> None:
    token = new_token()
    as_root(own, ONE_ALLOWED, {"kind": "well_made", **GUEST, "token": token})
    kinds = ("four", "six", "stream", "pieces", "p6ieces")
    assert [kind for kind in kinds if not watches[1].carrying(f"{token}:{kind}")] == []


def test_no_frame_gets_past_the_rules(own: Front, bed: Bed, watches: tuple[Watch, Watch]) -> None:
    bed.on_host.ask("seen")
    for watch in watches:
        watch.forget()
    token = new_token()
    assert leaked(watches, token, sent(own, ONE_ALLOWED, token)) == {}
    assert [one for watch in watches for one in watch.to_or_from(FORBIDDEN, FORBIDDEN6)] == []
    assert bed.on_host.ask("seen") == []


ALSO_ALLOWED = ("closed_ports", "other_protocols", "pieces", "pieces6", "mapped_addresses")
"""What is among them for who may be talked to, where all may be."""


def test_no_frame_gets_past_the_rules_that_allow_everything_else(
    own: Front, bed: Bed, watches: tuple[Watch, Watch]
) -> None:
    """The denied, other sources than its own, the host, and what is no packet."""
    bed.on_host.ask("seen")
    for watch in watches:
        watch.forget()
    token = new_token()
    names = sent(own, ALL_ALLOWED, token)
    assert leaked(watches, token, [name for name in names if name not in ALSO_ALLOWED]) == {}
    assert [one for watch in watches for one in watch.to_or_from(FORBIDDEN, FORBIDDEN6)] == []
    assert bed.on_host.ask("seen") == []


def routes(bed: Bed) -> list[str]:
    """But those by links of single sandboxes, which come and go."""
    lines = [line for family in ("-4", "-6") for line in bed.run(["ip", family, "route"]).splitlines()]
    return [line for line in lines if "dev mxc" not in line.replace("dev mxcbr0", "")]


def test_what_a_guest_claims_of_the_link_changes_nothing_outside(own: Front, bed: Bed) -> None:
    """Neither the host's neighbours, nor the way to who may be talked to."""
    before = routes(bed)
    claims = {"kind": "frames", **GUEST, "token": new_token(), "which": ["claims"] * 20, "stay": 0}
    asking = [{"kind": "udp", "to": one, "port": 8000, "after": 1} for one in (ALLOWED, ALLOWED6)]
    told = as_root(own, ONE_ALLOWED, claims, *asking)
    assert [one["reached"] for one in told] == [True] * 3, told
    assert routes(bed) == before
    neighbours = bed.run(["ip", "neigh", "show", "dev", "mxcbr0"])
    assert not {"192.0.0.1", ALLOWED, "203.0.113.1", ALLOWED6} & set(neighbours.split())


def test_a_guest_has_no_other_way_to_its_host(own: Front) -> None:
    [told] = as_root(own, ALL_ALLOWED, {"kind": "host_socket"})
    assert not told["reached"], told
