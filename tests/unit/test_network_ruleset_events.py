"""What the kernel reports: log messages of any packet at all, and counters."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.network.counters import RuleCount, rule_counts
from backends.network.nflog import Decision, bind_messages, decisions

PREFIX, PAYLOAD = 10, 9
PACKET = 4 << 8
IPV4 = bytes.fromhex("45000028000040004006000000000000") + b"\0\0"


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def message(*attributes: bytes, kind: int = PACKET) -> bytes:
    body = b"\2\0\0\5" + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def logged(packet: bytes, prefix: bytes = b"egress.deny.0 deny\0") -> bytes:
    return message(attribute(1, b"\x08\0\3\0"), attribute(PREFIX, prefix), attribute(PAYLOAD, packet))


def ipv4(rest: bytes, *, protocol: int = 6, options: bytes = b"", fragment: int = 0) -> bytes:
    size = 20 + len(options)
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, 0, size + len(rest), 1, fragment, 64, protocol, 0)
    return head + bytes([192, 0, 2, 1, 198, 51, 100, 7]) + options + rest


def ipv6(rest: bytes, *, following: int = 6) -> bytes:
    ends = bytes.fromhex("20010db800000000000000000000000120010db8000000000000000000000007")
    return struct.pack(">IHBB", 6 << 28, len(rest), following, 64) + ends + rest


PORTS = struct.pack(">HH", 40000, 443) + b"\0" * 16
HOPS, ROUTE = bytes([43, 1]) + b"\0" * 14, bytes([6, 0]) + b"\0" * 6
FRAGMENT, FIRST = bytes([17, 0, 0, 8]) + b"\0" * 4, bytes([17, 0, 0, 1]) + b"\0" * 4


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (ipv4(PORTS), (4, "tcp", "192.0.2.1", 40000, "198.51.100.7", 443, 40)),
        (ipv4(PORTS, options=b"\1" * 8), (4, "tcp", "192.0.2.1", 40000, "198.51.100.7", 443, 48)),
        (ipv4(b"\x08\0", protocol=1), (4, "icmp", "192.0.2.1", None, "198.51.100.7", None, 22)),
        (ipv4(PORTS, protocol=132), (4, "132", "192.0.2.1", None, "198.51.100.7", None, 40)),
        (ipv4(PORTS, fragment=1), (4, "tcp", "192.0.2.1", None, "198.51.100.7", None, 40)),
        (ipv6(PORTS), (6, "tcp", "2001:db8::1", 40000, "2001:db8::7", 443, 60)),
        (ipv6(HOPS + ROUTE + PORTS, following=0), (6, "tcp", "2001:db8::1", 40000, "2001:db8::7", 443, 84)),
        (ipv6(FIRST + PORTS, following=44), (6, "udp", "2001:db8::1", 40000, "2001:db8::7", 443, 68)),
        (ipv6(FRAGMENT + PORTS, following=44), (6, "udp", "2001:db8::1", None, "2001:db8::7", None, 68)),
        (ipv6(b"\x80\0", following=58), (6, "icmp", "2001:db8::1", None, "2001:db8::7", None, 42)),
        (b"", (0, "", "", None, "", None, 0)),
        (b"\x45\0\0\x28", (4, "", "", None, "", None, 40)),
        (b"\x15\0\0\x28", (0, "", "", None, "", None, 0)),
        (ipv4(PORTS)[:22], (4, "tcp", "192.0.2.1", 40000, "198.51.100.7", None, 40)),
    ],
)
def test_a_packet_is_read_as_far_as_it_goes(packet: bytes, expected: tuple[Any, ...]) -> None:
    (found,) = decisions(logged(packet))
    assert found == Decision("egress.deny.0", False, *expected)


def test_each_decision_of_a_datagram_is_told() -> None:
    both = logged(ipv4(PORTS)) + logged(ipv6(PORTS), b"egress.allow.10 allow\0")
    assert [(one.rule, one.allowed) for one in decisions(both)] == [
        ("egress.deny.0", False),
        ("egress.allow.10", True),
    ]


@pytest.mark.parametrize(
    "datagram",
    [
        logged(ipv4(PORTS), b"somebody else's\0"),
        logged(ipv4(PORTS), b"\xff\xfe deny?\0"),
        logged(ipv4(PORTS), b" deny\0"),
        message(attribute(PAYLOAD, ipv4(PORTS))),
        message(attribute(PREFIX, b"egress.deny.0 deny\0"), kind=3),
    ],
)
def test_what_is_no_decision_is_passed_over(datagram: bytes) -> None:
    assert decisions(datagram + logged(ipv4(PORTS))) == decisions(logged(ipv4(PORTS)))


@given(st.binary(max_size=400))
def test_no_bytes_are_an_error(data: bytes) -> None:
    assert isinstance(decisions(data), tuple)


@given(st.binary(max_size=130), st.sampled_from([0x40, 0x45, 0x4F, 0x60]))
def test_no_packet_is_an_error(data: bytes, first: int) -> None:
    (found,) = decisions(logged(bytes([first]) + data))
    assert found.rule == "egress.deny.0"
    assert found.family in (4, 6)


@given(st.data())
def test_no_damage_is_an_error(data: st.DataObject) -> None:
    whole = bytearray(logged(ipv6(HOPS + ROUTE + PORTS, following=0)) + logged(ipv4(PORTS)))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    assert len(decisions(cut)) <= 2


def counter(name: str, packets: int, octets: int) -> bytes:
    counts = attribute(1, struct.pack(">Q", octets)) + attribute(2, struct.pack(">Q", packets))
    fields = (attribute(1, b"mxc\0"), attribute(2, name.encode() + b"\0"), attribute(4 | 0x8000, counts))
    return message(*fields, kind=10 << 8 | 18)


def test_counters_are_read() -> None:
    answers = counter("egress.allow.0", 7, 396) + counter("egress.default", 0, 0) + message(kind=3)
    assert rule_counts(answers) == (RuleCount("egress.allow.0", 7, 396), RuleCount("egress.default", 0, 0))


@given(st.binary(max_size=200), st.integers(0, 120))
def test_what_is_no_counter_is_passed_over(noise: bytes, kept: int) -> None:
    assert rule_counts(noise + counter("egress.allow.0", 7, 396)[:kept]) in (
        (),
        (RuleCount("egress.allow.0", 7, 396),),
    )


def test_requests_for_the_log_are_told_apart() -> None:
    assert len({request[8:12] for request in bind_messages(5)}) == len(bind_messages(5))
