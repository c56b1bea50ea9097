"""Sets of addresses as sorted ranges of whole numbers: read, joined, subtracted, and written for nft. Pure.

A rule may list ten thousand networks, on the way of every start; `ipaddress` would take 100 ms for them.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from collections.abc import Iterable
from functools import lru_cache

__all__ = [
    "BITS",
    "FAMILIES",
    "KEYWORD",
    "Range",
    "by_length",
    "elements",
    "merged",
    "netmask",
    "parse",
    "spelled",
    "without",
]

Range = tuple[int, int]
FAMILIES = (4, 6)
KEYWORD = {4: "ip", 6: "ip6"}
"""How nft calls the families."""
BITS = {4: 32, 6: 128}
_SOCKET_FAMILY = {4: AF_INET, 6: AF_INET6}
_MAPPED = 0xFFFF << 32
_MAPPED_PREFIX = 96


@lru_cache(maxsize=1 << 14)
def parse(text: str) -> tuple[int, Range]:
    """The family, 4 or 6, and the (first, last) address of an address or network.

    What lies in ``::ffff:0:0/96`` is IPv4 (spec: policy-semantics.md §3.1); a larger block that contains it
    is IPv6 and nothing else. Raises `ValueError` for other text, also for IPv4 in another spelling than its
    one, and for a network with host bits set, which could mean the address or the network.
    """
    address, slash, written = text.partition("/")
    family = 6 if ":" in address else 4
    bits = BITS[family]
    try:
        first = int.from_bytes(inet_pton(_SOCKET_FAMILY[family], address), "big")
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is no IP address or network") from None
    prefix = bits
    if slash:
        plain = written.isascii() and written.isdecimal() and (written == "0" or written[0] != "0")
        prefix = int(written) if plain and len(written) <= 3 else -1
        if not 0 <= prefix <= bits:
            raise ValueError(f"{text!r} has no valid prefix length")
    rest = (1 << bits - prefix) - 1
    last = first | rest
    if first & rest:
        raise ValueError(f"{text!r} has bits set after its prefix")
    if family == 6 and prefix >= _MAPPED_PREFIX and first >> 32 == _MAPPED >> 32:
        return 4, (first - _MAPPED, last - _MAPPED)
    return family, (first, last)


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same numbers in the fewest ranges, in order: what overlaps or touches is joined."""
    joined: list[Range] = []
    start = end = -2
    for first, last in sorted(ranges):
        if first <= end + 1:
            end = max(end, last)
            continue
        if end >= 0:
            joined.append((start, end))
        start, end = first, last
    if end >= 0:
        joined.append((start, end))
    return tuple(joined)


def without(whole: Range, holes: Iterable[Range]) -> tuple[Range, ...]:
    """What is left of `whole` without `holes`, exactly."""
    left: list[Range] = []
    start, end = whole
    for first, last in merged(holes):
        if last < start:
            continue
        if first > end:
            break
        if first > start:
            left.append((start, first - 1))
        start = last + 1
    if start <= end:
        left.append((start, end))
    return tuple(left)


def by_length(family: int, ranges: Iterable[Range]) -> dict[int, list[int]]:
    """The networks that ranges are made of: length of the prefix → first addresses, both in order."""
    bits = BITS[family]
    found: dict[int, list[int]] = {}
    for first, last in ranges:
        start = first
        while start <= last:
            left = last - start + 1
            count = min(start & -start or 1 << bits, 1 << left.bit_length() - 1)
            found.setdefault(bits + 1 - count.bit_length(), []).append(start)
            start += count
    return dict(sorted(found.items()))


def netmask(family: int, length: int) -> str:
    """The mask of a prefix, as an address."""
    bits = BITS[family]
    return spelled(family, (1 << bits) - (1 << bits - length))


def spelled(family: int, number: int) -> str:
    """How a number is written as an address."""
    return inet_ntop(_SOCKET_FAMILY[family], number.to_bytes(BITS[family] // 8, "big"))


def elements(family: int, ranges: Iterable[Range]) -> list[str]:
    """How nft writes them: an address, a network where that is all of it (which nft reads faster), or a-b."""
    bits = BITS[family]
    texts: list[str] = []
    for first, last in ranges:
        text = spelled(family, first)
        count = last - first + 1
        if count == 1:
            texts.append(text)
        elif count & count - 1 == 0 and first % count == 0:
            texts.append(f"{text}/{bits + 1 - count.bit_length()}")
        else:
            texts.append(f"{text}-{spelled(family, last)}")
    return texts
