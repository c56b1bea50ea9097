"""HTTP requests and DNS queries, as far as they are decided by looking at them."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.update
import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.egress.dns_messages import Query, Reply, addresses_of_kind, answer, read_query
from backends.egress.http_requests import BadRequest, Inside, Wanted, forwarded, read_authority, wanted


def request(target: str, *headers: tuple[str, str], method: str = "GET") -> h11.Request:
    return h11.Request(method=method, target=target, headers=list(headers))


HOST = ("Host", "a.test")


@pytest.mark.parametrize(
    ("target", "host", "found"),
    [
        ("http://a.test/x?y=1", "a.test", Wanted("a.test", 80, b"/x?y=1")),
        ("HTTP://A.test", "a.TEST.", Wanted("a.test", 80, b"/")),
        ("http://a.test?q", "a.test:80", Wanted("a.test", 80, b"/?q")),
        ("http://a.test:8080/", "a.test:8080", Wanted("a.test", 8080, b"/")),
        ("http://[::1]/", "[::1]", Wanted("[::1]", 80, b"/")),
    ],
)
def test_an_absolute_target_says_whom_it_is_for(target: str, host: str, found: Wanted) -> None:
    assert wanted(request(target, ("Host", host)), None) == found


@pytest.mark.parametrize(
    ("target", "host", "reason"),
    [
        ("https://a.test/", "a.test", "target_malformed"),
        ("ftp://a.test/", "a.test", "target_malformed"),
        ("/x", "a.test", "target_malformed"),
        ("http:///x", "a.test", "target_malformed"),
        ("http://user@a.test/", "a.test", "target_malformed"),
        ("http://user:secret@a.test/", "a.test", "target_malformed"),
        ("http://a.test:/", "a.test", "target_malformed"),
        ("http://a.test:0/", "a.test:0", "target_malformed"),
        ("http://a.test:65536/", "a.test:65536", "target_malformed"),
        ("http://a.test\\@b.test/", "a.test", "target_malformed"),
        ("http://a.test/#b", "a.test", "target_malformed"),
        ("http://a.test/", "b.test", "host_mismatch"),
        ("http://a.test/", "a.test:8080", "host_mismatch"),
        ("http://a.test/", "user@a.test", "host_mismatch"),
        ("http://a.test/", "", "host_mismatch"),
    ],
)
def test_a_target_that_can_be_read_in_two_ways_is_refused(target: str, host: str, reason: str) -> None:
    with pytest.raises(BadRequest) as refused:
        wanted(request(target, ("Host", host)), None)
    assert refused.value.reason == reason


def test_inside_a_tunnel_the_host_is_the_tunnels() -> None:
    inside = Inside(8080, "a.test")
    for host in ("a.test", "A.TEST:8080", "a.test."):
        assert wanted(request("/x", ("Host", host)), inside) == Wanted("a.test", 8080, b"/x")
    for host in ("b.test", "a.test:80", "a.test:8081"):
        with pytest.raises(BadRequest, match="host_mismatch"):
            wanted(request("/x", ("Host", host)), inside)
    for target in ("http://a.test/", "x", "/x#y", "*x"):
        with pytest.raises(BadRequest, match="target_malformed"):
            wanted(request(target, HOST), inside)


def test_a_redirected_request_is_named_by_its_host() -> None:
    assert wanted(request("/", ("Host", "B.test")), Inside(80, None)).name == "b.test"
    old = h11.Request(method="GET", target="/", headers=[], http_version="1.0")
    with pytest.raises(BadRequest, match="host_malformed"):
        wanted(old, Inside(80, None))


def test_a_message_with_two_lengths_is_refused() -> None:
    both = request("http://a.test/", HOST, ("Content-Length", "3"), ("Transfer-Encoding", "chunked"))
    with pytest.raises(BadRequest, match="framing_ambiguous"):
        wanted(both, None)


def test_headers_of_the_hop_stay_on_it() -> None:
    headers = [
        *((b"connection", b"close, X-Hop"), (b"x-hop", b"1"), (b"proxy-authorization", b"secret")),
        *((b"te", b"trailers"), (b"upgrade", b"websocket"), (b"keep-alive", b"1"), (b"trailer", b"x")),
        *((b"transfer-encoding", b"chunked"), (b"accept", b"*/*"), (b"content-length", b"3")),
    ]
    assert forwarded(headers) == [(b"accept", b"*/*"), (b"content-length", b"3")]


@pytest.mark.parametrize("named", [b"Content-Length", b"x, host", b"transfer-encoding"])
def test_connection_cannot_take_away_what_says_where_a_message_ends(named: bytes) -> None:
    with pytest.raises(BadRequest):
        forwarded([(b"connection", named), (b"content-length", b"3")])


@given(st.text(max_size=30))
def test_an_authority_is_a_host_and_a_port_or_nothing(text: str) -> None:
    found = read_authority(text, 80)
    assert found is None or (text.startswith(found[0]) and 0 < found[1] < 65_536)


def query(name: str, kind: str = "A", **more: object) -> Query:
    made = dns.message.make_query(name, kind, **more)  # pyright: ignore[reportArgumentType]
    found = read_query(made.to_wire())
    assert isinstance(found, Query)
    return found


def test_a_query_is_answered_under_the_name_that_was_asked_for() -> None:
    asked = query("A.TEST.")
    response = dns.message.from_wire(answer(asked, ["192.0.2.1", "192.0.2.2"], 600, over_tcp=False))
    assert (response.id, response.rcode()) == (asked.message.id, dns.rcode.NOERROR)
    [records] = response.answer
    assert (records.ttl, str(records.name), len(records)) == (60, "A.TEST.", 2)


def test_a_long_answer_is_cut_by_udp_and_whole_by_tcp() -> None:
    addresses = [f"2001:db8::{number}" for number in range(1, 33)]
    for edns, room in ((-1, 512), (0, 1232)):
        asked = query("a.test.", "AAAA", use_edns=edns, payload=4096)
        wire = answer(asked, addresses * (1 if room == 512 else 2), 60, over_tcp=False)
        assert len(wire) <= room
    crowd = [f"2001:db8:1::{number:x}" for number in range(1, 100)]
    cut = dns.message.from_wire(answer(query("a.test.", "AAAA"), crowd, 60, over_tcp=False))
    assert cut.flags & dns.flags.TC and not cut.answer
    whole = dns.message.from_wire(answer(query("a.test.", "AAAA"), crowd, 60, over_tcp=True))
    assert not whole.flags & dns.flags.TC and len(whole.answer[0]) == 99


def test_each_type_gets_its_own_addresses() -> None:
    both = ["192.0.2.1", "2001:db8::1"]
    assert addresses_of_kind(both, dns.rdatatype.A) == ["192.0.2.1"]
    assert addresses_of_kind(both, dns.rdatatype.AAAA) == ["2001:db8::1"]
    assert addresses_of_kind(both, dns.rdatatype.HTTPS) == []


@pytest.mark.parametrize("kind", ["ANY", "AXFR", "IXFR"])
def test_transfers_are_refused(kind: str) -> None:
    found = read_query(dns.message.make_query("a.test.", kind).to_wire())
    assert isinstance(found, Reply)
    assert dns.message.from_wire(found.wire).rcode() == dns.rcode.REFUSED


def test_other_classes_are_refused() -> None:
    found = read_query(dns.message.make_query("version.bind.", "TXT", "CH").to_wire())
    assert isinstance(found, Reply)
    assert dns.message.from_wire(found.wire).rcode() == dns.rcode.REFUSED


def test_updates_are_not_implemented() -> None:
    update = dns.update.UpdateMessage("a.test.")
    update.add("x", 60, "A", "192.0.2.1")
    found = read_query(update.to_wire())
    assert isinstance(found, Reply)
    assert (found.wire[:2], found.wire[3] & 0xF) == (update.to_wire()[:2], dns.rcode.NOTIMP)


def test_an_answer_is_no_question() -> None:
    response = dns.message.make_response(dns.message.make_query("a.test.", "A"))
    assert read_query(response.to_wire()) is None


def test_one_question_at_a_time() -> None:
    two = dns.message.make_query("a.test.", "A")
    two.question += dns.message.make_query("b.test.", "A").question
    assert read_query(two.to_wire()) is None


WIRE = dns.message.make_query("a.test.", "A", use_edns=0).to_wire()


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda tail: WIRE[:12] + tail))
def test_random_queries_never_raise(wire: bytes) -> None:
    assert read_query(wire) is None or isinstance(read_query(wire), Query | Reply)


@given(st.lists(st.tuples(st.integers(0, len(WIRE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_queries_never_raise_and_can_be_answered(changes: list[tuple[int, int]]) -> None:
    wire = bytearray(WIRE)
    for place, value in changes:
        wire[place] = value
    found = read_query(bytes(wire))
    if isinstance(found, Query):
        assert answer(found, addresses_of_kind(["192.0.2.1"], found.kind), 60, over_tcp=False)[:2] == wire[:2]
