"""The names of the bed's DNS server, which tests change while it runs."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

__all__ = ["ZONE", "Zone"]

WEB, WEB6 = "192.0.2.80", "2001:db8:2::80"
ZONE: dict[str, list[list[str]]] = {
    "web.example.test": [[WEB, WEB6]],
    "four.example.test": [[WEB]],
    "six.example.test": [[WEB6]],
    "same.example.test": [[WEB, WEB6]],
    "a.deep.example.test": [[WEB, WEB6]],
    "example.test": [[WEB, WEB6]],
    "other.test": [["192.0.2.81", "2001:db8:2::81"]],
    "public.test": [["93.184.216.34", "2606:2800:220::34"]],
    "second.test": [["93.184.216.35", "2606:2800:220::35"]],
    "loop.example.test": [["127.0.0.1", "::1"]],
    "meta.example.test": [["169.254.169.254"]],
    "private.example.test": [["10.9.8.7"]],
    "host.example.test": [["203.0.113.2", "2001:db8:113::2"]],
    "bridge.example.test": [["10.187.0.1"]],
    "mixed.example.test": [["127.0.0.1", WEB]],
    "turning.example.test": [[WEB], ["127.0.0.1"]],
}
"""Name → the answers it gives in turn, each a list of addresses of both families."""

_TTL_S = 1
_TYPES = {dns.rdatatype.A: ".", dns.rdatatype.AAAA: ":"}


class Zone:
    """`asked` are the names that were asked for, in order."""

    def __init__(self) -> None:
        self._names = {name: list(turns) for name, turns in ZONE.items()}
        self._turns: dict[str, int] = {}
        self.asked: list[str] = []

    def put(self, name: str, turns: list[list[str]]) -> None:
        """What a name is from now on; without turns it is unknown."""
        self._turns.pop(name, None)
        if turns:
            self._names[name] = turns
        else:
            self._names.pop(name, None)

    def answer(self, wire: bytes) -> bytes:
        """The reply to one query."""
        query = dns.message.from_wire(wire)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA | dns.flags.RA
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        self.asked.append(name)
        turns = self._names.get(name)
        if turns is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
            return reply.to_wire()
        mark = _TYPES.get(question.rdtype)
        if mark is None:
            return reply.to_wire()
        key = f"{name} {mark}"
        turn = self._turns.get(key, 0)
        self._turns[key] = turn + 1
        found = [address for address in turns[turn % len(turns)] if mark in address]
        if found:
            reply.answer.append(dns.rrset.from_text(question.name, _TTL_S, "IN", question.rdtype, *found))
        return reply.to_wire()
