"""Read a client's DNS query, and write the answer to it (RFC 1035, RFC 6891). Pure."""

from __future__ import annotations

from collections.abc import Sequence

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from backends.frozen import frozen

__all__ = ["LONGEST_QUERY", "Query", "Reply", "addresses_of_kind", "answer", "read_query", "refusal"]

LONGEST_QUERY = 4096
_HEADER = 12
_PAYLOAD = 1232
_CLASSIC_PAYLOAD = 512
_LONGEST_TTL_S = 60
# Questions about more than one set of records: zone transfers, and everything there is.
_REFUSED_TYPES = (dns.rdatatype.ANY, dns.rdatatype.AXFR, dns.rdatatype.IXFR, dns.rdatatype.MAILB)


@frozen
class Query:
    """`name` is text as the client wrote it; `limit`: bytes of an answer by UDP."""

    message: dns.message.Message
    name: str
    kind: dns.rdatatype.RdataType
    limit: int


@frozen
class Reply:
    """An answer that needs no look-up."""

    wire: bytes


def read_query(wire: bytes) -> Query | Reply | None:
    """What a client's message asks. None: it is none, and gets no answer. Never raises."""
    if not _HEADER <= len(wire) <= LONGEST_QUERY or wire[2] & 0x80:
        return None
    if wire[2] >> 3 & 0xF:  # updates, notifications
        return Reply(wire[:2] + bytes([wire[2] & 0x79 | 0x80, dns.rcode.NOTIMP]) + bytes(8))
    try:
        message = dns.message.from_wire(wire)
        [question] = message.question
        query = Query(message, question.name.to_text(), question.rdtype, _limit(message))
    except (dns.exception.DNSException, ValueError, IndexError, OverflowError):
        return None
    if question.rdclass != dns.rdataclass.IN or question.rdtype in _REFUSED_TYPES:
        return Reply(refusal(query, dns.rcode.REFUSED))
    return query


def refusal(query: Query, code: dns.rcode.Rcode) -> bytes:
    """An answer that is only a code."""
    return _wire(query, code, None, None)


def addresses_of_kind(addresses: Sequence[str], kind: dns.rdatatype.RdataType) -> list[str]:
    """Those that a question of this type is about."""
    kinds = {dns.rdatatype.A: False, dns.rdatatype.AAAA: True}
    return [each for each in addresses if kinds.get(kind) is (":" in each)]


def answer(query: Query, addresses: Sequence[str], ttl: int, *, over_tcp: bool) -> bytes:
    """`addresses`, all of the question's type, directly under the name that was asked for.

    Aliases on the way are left out: the client would ask for them, and they need not be allowed.
    """
    records = None
    if addresses:
        name = query.message.question[0].name
        records = dns.rrset.from_text(name, min(ttl, _LONGEST_TTL_S), "IN", query.kind, *addresses)
    return _wire(query, dns.rcode.NOERROR, records, None if over_tcp else query.limit)


def _limit(message: dns.message.Message) -> int:
    if message.edns < 0:
        return _CLASSIC_PAYLOAD
    return min(max(message.payload, _CLASSIC_PAYLOAD), _PAYLOAD)


def _wire(query: Query, code: dns.rcode.Rcode, records: dns.rrset.RRset | None, limit: int | None) -> bytes:
    response = dns.message.make_response(query.message, recursion_available=True, our_payload=_PAYLOAD)
    response.set_rcode(code)
    if records is not None:
        response.answer.append(records)
    wire = response.to_wire(max_size=65_535)
    if limit is not None and len(wire) > limit:
        response.answer.clear()
        response.flags |= dns.flags.TC
        wire = response.to_wire(max_size=65_535)
    return wire
