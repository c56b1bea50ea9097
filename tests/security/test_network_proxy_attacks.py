"""Nothing gets past the filtering proxy by how it is asked, for which names, or how often."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.network.bed import Bed
from tests.network.flavours import FLAVOURS
from tests.network.lab import Lab, Ran
from tests.security.network_attacks import Watch, attack_source, new_token, watched
from tests.security.network_recorder import PORT, Recorder
from tests.security.requests_to_proxy import ALLOWED, CONNECTS, FORMS, SECOND, SMUGGLED, WEB

pytest_plugins = ("tests.network.fixtures",)

ON_EACH = pytest.mark.parametrize("flavour", [FLAVOURS[0], FLAVOURS[1], FLAVOURS[4]])
"""Of what a proxy is for: LXC has that of bubblewrap."""
PATIENCE_S = 30  # for answers that must come, however busy the machine is
REQUESTS = attack_source("network_requests")
LAB = ["192.0.2.0/24", "2001:db8:2::/64"]
SECONDS = ("93.184.216.35", "2606:2800:220::35")

Attack = dict[str, Any]


def names(*entries: Attack) -> dict[str, Any]:
    return {"mxcOps": {"network": {"names": list(entries)}}}


ONE_NAME = names(
    {"name": WEB, "addresses": LAB},
    {"name": WEB, "addresses": LAB, "ports": [PORT], "inspect": "http"},
)
WIDEST = [
    *("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15"),
    *("203.0.113.0/24", "2001:db8::/32", "fc00::/7", "2002::/16"),
]
"""Of what is not public all that an owner can write."""
AS_OPEN_AS_CAN_BE = names(
    {"name": "*", "addresses": WIDEST, "ports": [{"port": 1, "endPort": 65535}], "inspect": "none"}
)


@pytest.fixture(scope="module")
def watches(bed: Bed) -> Iterator[tuple[Watch, Watch]]:
    with watched(bed) as both:
        yield both


@pytest.fixture(scope="module")
def recorder(bed: Bed) -> Recorder:
    return Recorder(bed)


def asked(lab: Lab, sections: dict[str, Any], attacks: Sequence[Attack]) -> Ran:
    """All of them at once, in one sandbox that has begun to use its proxy."""
    lab.bed.out_there.ask("asked")
    lab.bed.on_host.ask("seen")
    control = {
        "kind": "says",
        "text": f"GET http://{WEB}/ HTTP/1.1\r\nHost: {WEB}\r\nConnection: close\r\n\r\n",
        "patience": PATIENCE_S,
    }
    ran = lab.run(
        lab.document(sections, source=REQUESTS), [*({"wait": 5, **one} for one in attacks), control]
    )
    assert ran.probes[-1]["said"].startswith("HTTP/1.1 200"), ran.probes[-1]
    del ran.probes[-1]
    return ran


def untouched(lab: Lab, watches: tuple[Watch, Watch], came: set[str]) -> None:
    """Nobody but `WEB` was looked up, connected to, or reached; `came` is how often it may have been."""
    lab_saw = lab.bed.out_there.ask("seen")
    assert {f"{address}:{port}" for kind, address, port in lab_saw if kind == "tcp"} <= came
    assert [one for watch in watches for one in watch.to_or_from(*SECONDS)] == []
    assert lab.bed.on_host.ask("seen") == []
    assert {*lab.bed.out_there.ask("asked")} <= {WEB}


AT_WEB = {"192.0.2.80:80", "2001:db8:2::80:80"}

# --- how it is asked -----------------------------------------------------------------------------------


@ON_EACH
def test_no_spelling_of_a_request_leads_elsewhere(
    lab: Lab, watches: tuple[Watch, Watch], recorder: Recorder
) -> None:
    recorder.heard()
    lab.bed.out_there.ask("seen")
    texts = (*FORMS, *CONNECTS)
    ran = asked(lab, ONE_NAME, [{"kind": "says", "text": text, "patience": PATIENCE_S} for text in texts])
    answered = [
        (text, told["said"])
        for text, told in zip(texts, ran.probes, strict=True)
        if not re.match(r"HTTP/1.1 (40[03]|501) |HTTP/1.1 200 Connection established", told["said"])
        or (text in FORMS and " 200 " in told["said"])
    ]
    assert answered == []
    assert recorder.heard() == []
    untouched(lab, watches, AT_WEB)


@ON_EACH
def test_a_request_is_passed_on_in_one_reading_or_not_at_all(
    lab: Lab, watches: tuple[Watch, Watch], recorder: Recorder
) -> None:
    recorder.heard()
    lab.bed.out_there.ask("seen")
    good = [{"kind": "says", "text": text, "patience": PATIENCE_S} for text in ALLOWED]
    ran = asked(lab, ONE_NAME, [*({"kind": "says", "text": text} for text in SMUGGLED), *good])
    assert [told["said"] for told in ran.probes[-len(ALLOWED) :]] == ["HTTP/1.1 200 OK"] * len(ALLOWED)
    heard = recorder.heard()
    assert len(heard) > len(ALLOWED)
    assert [text for text in heard if not reads_in_one_way(text)] == []
    untouched(lab, watches, {*AT_WEB, f"192.0.2.80:{PORT}", f"2001:db8:2::80:{PORT}"})


def reads_in_one_way(text: str) -> bool:
    """One request, strictly: RFC 9112 §2.1, §6.3 and §7.1 leave no other reading of it."""
    head, _, body = text.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    fields = [
        re.fullmatch(r"([a-z0-9-]+): ([\x21-\x7e]+(?: [\x21-\x7e]+)*)", line, re.IGNORECASE) for line in lines
    ]
    if first != "POST /first HTTP/1.1" or not all(fields):
        return False
    found = [(field[1].lower(), field[2]) for field in fields if field]
    lengths = [value for name, value in found if name == "content-length"]
    codings = [value for name, value in found if name == "transfer-encoding"]
    if [value for name, value in found if name == "host"] != [f"{WEB}:{PORT}"] or len(lengths) + len(
        codings
    ) != 1:
        return False
    if lengths:
        return len(body) == int(lengths[0])
    while chunk := re.match(r"([0-9a-f]+)\r\n", body):
        size = int(chunk[1], 16)
        body = body[chunk.end() + size + 2 :]
    return codings == ["chunked"] and body in ("", "\r\n")


@ON_EACH
def test_socks_asks_for_names_and_connections_alone(lab: Lab, watches: tuple[Watch, Watch]) -> None:
    name = SECOND.encode().hex()
    size = f"{len(SECOND):02x}"
    requests = {
        "an address": "050100015db8d82301bb",
        "an address of IPv6": "05010004" + "00" * 15 + "011f40",
        "a mapped one": "05010004" + "00" * 10 + "ffff7f0000011f40",
        "another name": f"05010003{size}{name}01bb",
        "an address as a name": "0501000309" + b"127.0.0.1".hex() + "1f40",
        "a name with a NUL": f"05010003{len(WEB) + 1 + len(SECOND):02x}{WEB.encode().hex()}00{name}01bb",
        "to listen": f"05020003{len(WEB):02x}{WEB.encode().hex()}0050",
        "datagrams": f"05030003{len(WEB):02x}{WEB.encode().hex()}0050",
        "no name": "050100030001bb",
        "port 0": f"05010003{len(WEB):02x}{WEB.encode().hex()}0000",
        "another version": f"04010003{len(WEB):02x}{WEB.encode().hex()}01bb",
    }
    lab.bed.out_there.ask("seen")
    request = f"05010003{len(WEB):02x}{WEB.encode().hex()}01bb"
    control = {"kind": "asks_by_socks", "request": request, "wait": PATIENCE_S}
    attacks = [{"kind": "asks_by_socks", "request": request} for request in requests.values()]
    ran = asked(lab, ONE_NAME, [*attacks, control])
    reached = [told["reached"] for told in ran.probes]
    assert dict(zip(requests, reached, strict=False)) == dict.fromkeys(requests, False)
    assert reached[-1]
    untouched(lab, watches, AT_WEB)


@ON_EACH
def test_who_is_redirected_to_cannot_be_asked_directly(lab: Lab, watches: tuple[Watch, Watch]) -> None:
    """Where it listens is known; there, no port was meant that any rule has."""
    lab.bed.out_there.ask("seen")
    hosts = ("127.0.0.1", "::1") if not lab.flavour.is_machine else ("192.0.0.1", "fdb5:6d78:63::1")
    texts = [f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n" for host in (WEB, SECOND, f"{WEB}:80")]
    said = {"kind": "says", "port": 61081, "patience": PATIENCE_S}
    attacks = [{**said, "to": to, "text": text} for to in hosts for text in texts]
    ran = asked(lab, ONE_NAME, attacks)
    assert [told["said"] for told in ran.probes if not re.match(r"HTTP/1.1 40[03] ", told["said"])] == []
    untouched(lab, watches, AT_WEB)


# --- where names lead -----------------------------------------------------------------------------------

NEVER = {
    "loopback": ("127.0.0.1", "127.0.0.53", "::1"),
    "unspecified": ("0.0.0.0", "::"),
    "mapped": ("::ffff:7f00:1", "::7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::1", "::ffff:0:7f00:1"),
    "link-local": ("169.254.169.254", "169.254.1.1", "fe80::1", "::ffff:a9fe:a9fe"),
    "metadata": ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"),
    "everybody": ("224.0.0.1", "239.1.2.3", "255.255.255.255", "ff02::1"),
    "the host": ("203.0.113.2", "10.187.0.1", "2001:db8:113::2", "fdb5:6d78:62::1", "::ffff:cb00:7102"),
    "of the host": ("203.0.113.255", "10.187.3.255"),
}
METADATA = [address for kind in ("link-local", "metadata") for address in NEVER[kind]]


@ON_EACH
def test_no_name_leads_to_what_is_never_reached(lab: Lab, watches: tuple[Watch, Watch]) -> None:
    """Under a rule for every name, address and port, without a look at what is said."""
    for watch in watches:
        watch.forget()
    addresses = [address for kind in NEVER.values() for address in kind]
    zone = {f"never{number}.example.test": address for number, address in enumerate(addresses)}
    for name, address in zone.items():
        lab.bed.out_there.ask("zone", name=name, turns=[[address]])
    names_ = [*zone, "localhost", "localhost.localdomain", "ip6-localhost"]
    attacks = [
        {"kind": "tunnel", "by": by, "name": name, "port": port, "speak": "greeting", "reached": False}
        for name in names_
        for by, port in (("connect", 8000), ("socks", 61080))
    ]
    allowed = {"kind": "tunnel", "by": "connect", "name": WEB, "port": 8000, "speak": "greeting"}
    ran = asked(lab, AS_OPEN_AS_CAN_BE, [*attacks, allowed])
    reached = [
        (one["name"], told["said"]) for one, told in zip(attacks, ran.probes, strict=False) if told["reached"]
    ]
    assert reached == []
    assert ran.probes[-1]["said"].startswith("tcp ")
    assert lab.bed.on_host.ask("seen") == []
    assert [one for watch in watches for one in watch.to_or_from(*METADATA)] == []


@ON_EACH
def test_an_answer_that_changes_leads_nowhere_else(lab: Lab) -> None:
    """Every other time the name is of the host's loopback: what was checked is what is connected to."""
    turns = [
        ["192.0.2.80"],
        ["127.0.0.1"],
        ["192.0.2.80", "127.0.0.1"],
        ["::1"],
        ["203.0.113.2", "192.0.2.80"],
    ]
    names_ = [f"flips{number}.example.test" for number in range(12)]
    for number, name in enumerate(names_):
        lab.bed.out_there.ask("zone", name=name, turns=turns[number % 5 :] + turns[: number % 5])
    attacks = [
        {"kind": "tunnel", "by": by, "name": name, "port": 8000, "speak": "greeting", "after": after}
        for name in names_
        for by, after in (("connect", 0), ("socks", 0), ("connect", 1.1), ("socks", 2.2))
    ]
    ran = asked(lab, AS_OPEN_AS_CAN_BE, attacks)
    assert {told["said"] for told in ran.probes if told["reached"]} == {"tcp 192.0.2.80 8000"}
    assert lab.bed.on_host.ask("seen") == []


@pytest.mark.parametrize("flavour", FLAVOURS[:2])
def test_a_proxy_is_no_way_to_another_sandbox(lab: Lab) -> None:
    """Though the host itself, where it runs, has one to the sandboxes of root's."""
    bed, key, board = lab.bed, new_token(), "192.0.2.90"
    bed.forget_neighbours()
    serving = {"kind": "serve", "to": "0.0.0.0", "port": 5555, "protocol": "tcp", "key": key, "board": board}
    first = lab.document({"network": {"egress": {"default": "allow"}}}, source=REQUESTS)
    ending = lab.start(first, [serving])
    assert bed.out_there.ask("heard", key=key) == "up"
    addresses = [*bed.neighbours(), "203.0.113.2"]
    for number, address in enumerate(addresses):
        bed.out_there.ask("zone", name=f"neighbour{number}.example.test", turns=[[address]])
    attacks = [
        {
            "kind": "tunnel",
            "by": "connect",
            "name": f"neighbour{number}.example.test",
            "port": 5555,
            "speak": "greeting",
        }
        for number in range(len(addresses))
    ]
    ran = asked(lab, AS_OPEN_AS_CAN_BE, [{**one, "reached": False, "wait": 8} for one in attacks])
    bed.out_there.ask("tell", key=f"{key}-end", value="end")
    assert ending().probes[0]["said"] == "[]"
    assert [told["said"] for told in ran.probes if told["reached"]] == []


# --- names as a way out --------------------------------------------------------------------------------


@ON_EACH
def test_no_question_leaves_that_is_not_about_an_allowed_name(lab: Lab, watches: tuple[Watch, Watch]) -> None:
    """What a name says is told to whoever answers for it: so nobody is asked, by whichever way."""
    secret = new_token()
    servers = ("192.0.2.53", "198.51.100.9", "2001:db8:2::53")
    tunnelled = [secret.encode().hex(), b"second".hex(), b"test".hex()]
    spelled = [
        [b"web.example.test".hex()],
        [b"web".hex(), b"example.test".hex()],
        [b"web\0".hex(), b"example".hex(), b"test".hex()],
        [f"{secret}.web".encode().hex(), b"example".hex(), b"test".hex()],
        [secret.encode().hex(), b"web".hex(), b"example".hex(), b"test".hex()],
    ]
    attacks: list[Attack] = [
        *(
            {"kind": "asks_dns", "to": to, "labels": labels, "type": kind}
            for to in servers
            for labels in (tunnelled, *spelled)
            for kind in (1, 28, 16, 255, 10)
        ),
        *(
            {"kind": "asks_dns", "to": to, "labels": tunnelled, "type": 1, "port": port}
            for to in servers
            for port in (5353, 853, 8000)
        ),
        {"kind": "lookup", "name": f"{secret}.second.test"},
        {"kind": "url", "url": f"http://{secret}.second.test/"},
        {"kind": "url", "url": f"http://{secret}.second.test/", "direct": True},
        {"kind": "straight", "name": f"{secret}.second.test", "to": "192.0.2.9", "port": 443, "speak": "tls"},
        {"kind": "straight", "name": f"{secret}.second.test", "to": "192.0.2.9", "port": 80, "speak": "http"},
        {"kind": "tunnel", "by": "connect", "name": f"{secret}.second.test", "port": 443, "speak": "tls"},
        {"kind": "tunnel", "by": "socks", "name": f"{secret}.second.test", "port": 443, "speak": "tls"},
        {"kind": "dns", "to": "192.0.2.53", "port": 53, "name": f"{secret}.second.test", "over": "tcp"},
    ]  # fmt: skip
    ran = asked(lab, ONE_NAME, [{**one, "reached": False, "wait": 3} for one in attacks])
    assert [
        (one, told["said"]) for one, told in zip(attacks, ran.probes, strict=True) if told["reached"]
    ] == []
    assert [one for watch in watches for one in watch.carrying(secret)] == []
    assert {*lab.bed.out_there.ask("asked")} <= {WEB}


# --- how much ------------------------------------------------------------------------------------------


@ON_EACH
def test_however_many_connections_harm_nobody_else(lab: Lab, soak: bool) -> None:
    """Another sandbox is served meanwhile, and the same one afterwards."""
    count = 10_000 if soak else 1_000
    others = 10 if soak else 1
    flood = {
        "kind": "floods",
        "count": count // others,
        "text": "",
        "hold": 1,
        "url": f"http://{WEB}/",
        "wait": 60,
    }
    ending = lab.start(lab.document(ONE_NAME, source=REQUESTS), [flood] * others)
    meanwhile = asked(lab, ONE_NAME, [{"kind": "url", "url": f"http://{WEB}/"}])
    assert meanwhile.probes[0]["reached"]
    assert [told["said"] for told in ending().probes] == [
        f"{count // others} connections; then served"
    ] * others


@pytest.mark.soak
@pytest.mark.parametrize("flavour", [FLAVOURS[1]])
def test_who_never_comes_to_the_point_keeps_nobody_out_for_long(lab: Lab) -> None:
    """More of them than are served at a time."""
    slow = {"kind": "dribbles", "count": 500, "url": f"http://{WEB}/", "wait": 60}
    ran = lab.run(lab.document(ONE_NAME, source=REQUESTS), [slow] * 3)
    assert [told["said"] for told in ran.probes] == ["served"] * 3


@pytest.mark.parametrize("flavour", [FLAVOURS[0]])
def test_what_is_kept_of_a_runs_decisions_has_an_end(lab: Lab) -> None:
    """The host keeps it, out of reach of the sandbox's own limits: of the rules' it is 4 MiB at most."""
    name = f"{'a' * 60}.{'b' * 60}.{'c' * 60}.example.test"
    lab.bed.out_there.ask("zone", name=name, turns=[["192.0.2.80"]])
    text = f"GET http://{name}/ HTTP/1.1\r\nHost: {name}\r\n\r\n"
    sections = names({"name": "*.example.test", "addresses": LAB})
    ran = lab.run(
        lab.document(sections, source=REQUESTS), [{"kind": "many", "count": 1_500, "text": text}] * 4
    )
    assert [told["said"] for told in ran.probes] == ["answered"] * 4
    kept = [json.dumps(event, separators=(",", ":")) for event in ran.events if event["source"] == "proxy"]
    assert sum(map(len, kept)) <= 4 << 20
