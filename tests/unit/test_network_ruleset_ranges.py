"""Sets of addresses: joined, subtracted and written exactly; text that is no network is none."""

from __future__ import annotations

import ipaddress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.network.ranges import BITS, Range, elements, merged, parse, without

RANGES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda one: (one[0], one[0] + one[1])), max_size=8
)


def numbers(ranges: tuple[Range, ...] | list[Range]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


@given(RANGES)
def test_joining_keeps_the_numbers_in_the_fewest_ranges(ranges: list[Range]) -> None:
    found = merged(ranges)
    assert numbers(found) == numbers(ranges)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(found))


@given(RANGES, st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_subtraction_is_exact(holes: list[Range], drawn: tuple[int, int]) -> None:
    whole = (drawn[0], drawn[0] + drawn[1])
    assert numbers(without(whole, holes)) == numbers([whole]) - numbers(holes)


@given(st.sampled_from([4, 6]), st.data())
def test_networks_are_read_and_written_as_they_are(family: int, data: st.DataObject) -> None:
    bits = BITS[family]
    prefix = data.draw(st.integers(0, bits))
    first = data.draw(st.integers(0, (1 << prefix) - 1)) << (bits - prefix)
    kind = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
    network = kind((first, prefix))
    mapped = isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped
    if not (mapped and prefix >= 96):
        last = int(network.broadcast_address)
        assert parse(str(network)) == (family, (first, last))
        (written,) = elements(family, [(first, last)])
        assert ipaddress.ip_network(written) == network


@given(st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF)).map(sorted))
def test_a_range_is_written_with_both_its_ends(ends: list[int]) -> None:
    (text,) = elements(4, [(ends[0], ends[1])])
    if "-" in text:
        assert [int(ipaddress.ip_address(end)) for end in text.split("-")] == ends
    else:
        network = ipaddress.ip_network(text)
        assert [int(network.network_address), int(network.broadcast_address)] == ends


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:c000:201/128", "192.0.2.1/32"),
    ],
)
def test_mapped_networks_are_ipv4(text: str, meant: str) -> None:
    assert parse(text) == parse(meant)


@pytest.mark.parametrize("text", ["::/0", "::fffe:0:0/95", "64:ff9b::192.0.2.1/128", "::192.0.2.1"])
def test_others_are_ipv6(text: str) -> None:
    assert parse(text)[0] == 6


@pytest.mark.parametrize(
    "text",
    [
        *("", "/8", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/8/8"),
        *("10.0.0.0/ 8", " 10.0.0.0", "10.0.0.0/255.0.0.0", "10.0.0", "010.0.0.0", "0x0a.0.0.0", "1"),
        *("10.0.0.1/8", "2001:db8::1/32", "fe80::1%eth0", "example.test", "10.0.0.0/\u0668", "10.0.0.0\0"),
        *("10.0.0.0-10.0.0.9", "10.0.0.0 }", "::ffff:192.0.2.1/120", "10.0.0.0/00000000008", "\u0661.0.0.0"),
    ],
)
def test_text_that_is_no_network_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"no IP|prefix"):
        parse(text)
