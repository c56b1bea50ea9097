"""The one place where passages are decided, connected and, when the rules change, ended again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from backends.egress.addresses import AddressDecision, check
from backends.egress.bounds import ADDRESSES_TRIED, CONNECT_S
from backends.egress.events import Events
from backends.egress.names import Decision, NameTable, canonical
from backends.egress.own_addresses import OwnAddresses
from backends.egress.passages import Connection, Passage, Refused
from backends.egress.resolving import Resolver
from backends.egress.rules import Rules
from backends.egress.streams import connected

__all__ = ["Gate"]


class Gate:
    """Holds the rules of this moment, and `connections`, everyone who is served under them.

    `names` are those of the rules that are about names.
    """

    def __init__(self, rules: Rules, resolver: Resolver, own: OwnAddresses, events: Events) -> None:
        self.names = NameTable(rules)
        self.events = events
        self.resolver = resolver
        self.connections: set[Connection] = set()
        self._deny = rules.deny
        self._own = own
        self._numbers = 0

    def number(self) -> int:
        """A number for a client's connection, which events know it by."""
        self._numbers += 1
        return self._numbers

    def admit(self, connection: Connection, passage: Passage) -> Decision:
        """Decide by name, port and method. From here on a change of the rules is a change for `passage`.

        Raises `Refused`.
        """
        connection.passage = passage
        decision = self.names.decide(passage.name, passage.port, passage.method or None)
        passage.decision, passage.rule = decision, decision.rule
        if not decision.allowed:
            raise Refused(passage, decision.reason)
        passage.name = canonical(passage.name) or passage.name
        return decision

    async def resolve(self, passage: Passage) -> tuple[str, ...]:
        """The addresses of an admitted passage that may be connected to; the others are told of.

        Raises `Refused` where there are none.
        """
        found = await self.resolver.lookup(passage.name)
        if found.failure:
            raise Refused(passage, found.failure, denied=False)
        good: list[str] = []
        bad: list[Refused] = []
        for address in found.addresses:
            decision = self.check(passage, address)
            if decision.allowed:
                good.append(address)
                continue
            one = Passage(passage.connection, passage.protocol, passage.name, passage.port, passage.method)
            one.address, one.rule = address, decision.rule or passage.rule
            bad.append(Refused(one, decision.reason))
        for refused in bad if good else bad[:-1]:
            refused.passage.write(self.events, "denied", refused.reason)
        if not good:
            raise bad[-1]
        return tuple(good)

    async def connect(self, passage: Passage, addresses: Sequence[str]) -> socket.socket:
        """A connection to the first of `addresses` that answers; it is pinned: no name is looked up again.

        Each one is checked again, for the rules may be others by now. Raises `Refused`.
        """
        refused = Refused(passage, "unreachable", denied=False)
        for address in addresses[:ADDRESSES_TRIED]:
            decision = self.check(passage, address)
            if not decision.allowed:
                refused = Refused(passage, decision.reason)
                continue
            passage.address = address  # before it is connected: new rules must find it
            try:
                upstream = await self._connected(address, passage.port or 0)
            except OSError:
                continue
            passage.begin(self.events)
            return upstream
        raise refused

    def check(self, passage: Passage, address: str) -> AddressDecision:
        """Whether an admitted passage may lead to `address`, under the rules of this moment."""
        permitted = () if passage.decision is None else passage.decision.addresses
        return self._check(address, passage.port, permitted)

    def check_look_up(self, name: str, address: str) -> AddressDecision:
        """Whether any of the rules that allow `name` lets it lead to `address`, at whatever port."""
        decision = AddressDecision("name_not_allowed")
        for rule in self.names.rules_of(name):
            decision = self._check(address, None, rule.addresses)
            if decision.allowed:
                break
        return decision

    async def replace(self, rules: Rules) -> None:
        """Put `rules` in the place of all that hold, and end every passage that they would not allow.

        They hold at once; when this returns, nothing is carried any more that they would not allow.
        """
        self.names = NameTable(rules)
        self._deny = rules.deny
        ended: list[asyncio.Task[None]] = []
        for connection in tuple(self.connections):
            if connection.passage is not None and not self._still_allowed(connection.passage):
                connection.end("replaced")
                ended += [] if connection.task is None else [connection.task]
        if ended:
            await asyncio.wait(ended)

    def _still_allowed(self, passage: Passage) -> bool:
        before = passage.decision
        if before is None or not before.allowed:
            return True  # of no rule: a forward; or on its way to be refused
        now = self.names.decide(passage.name, passage.port, passage.method or None)
        if not now.allowed or now.inspection is not before.inspection:
            return False
        passage.decision, passage.rule = now, now.rule
        return passage.address is None or self.check(passage, passage.address).allowed

    def _check(self, address: str, port: int | None, permitted: tuple[str, ...]) -> AddressDecision:
        try:
            own = self._own.networks()
        except OSError:
            return AddressDecision("address_unchecked")
        return check(address, port, permitted=permitted, deny=self._deny, own=own)

    @staticmethod
    async def _connected(address: str, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return await connected(socket.socket(family, socket.SOCK_STREAM), address, port, CONNECT_S)
