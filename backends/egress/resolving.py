"""Find the addresses of a name, as the host does: its hosts file, then its nameservers.

What is found is not yet allowed: see `backends.egress.addresses`. Aliases are followed and not judged: only
where they end does anything connect to.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import cast

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.name
import dns.rdata
import dns.rdatatype
import dns.resolver

from backends.egress.bounds import LOOKUP_S, LOOKUPS, NAMES_KEPT
from backends.egress.host_names import HostsFile, Nameservers
from backends.frozen import frozen, replace

__all__ = ["Found", "Resolver", "ask_nameservers"]

_LONGEST_TTL_S = 60
_NEGATIVE_TTL_S = 2
_MOST_ALIASES = 8
_MOST_ADDRESSES = 32
_TRY_S = 2.0
_PAYLOAD = 1232  # dnsflagday.net/2020: fits every path without fragments


@frozen
class Found:
    """The addresses of a name, for `ttl` seconds; or why there are none: ``name_not_found``,
    ``lookup_failed``."""

    addresses: tuple[str, ...] = ()
    ttl: int = _NEGATIVE_TTL_S
    failure: str = ""


class Resolver:
    """Looks names up, remembers the answers, and asks for a name once however many wait for it.

    Parameters
    ----------
    hosts: consulted first.
    ask: the look-up itself, of a name that is not remembered.
    clock: seconds, never running backwards.
    """

    def __init__(
        self,
        hosts: HostsFile,
        ask: Callable[[str], Awaitable[Found]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hosts = hosts
        self._ask = ask
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, Found]] = OrderedDict()
        self._asked: dict[str, asyncio.Task[Found]] = {}
        self._places = asyncio.Semaphore(LOOKUPS)

    async def lookup(self, name: str) -> Found:
        """The addresses of a canonical name, within `LOOKUP_S`."""
        addresses = self._hosts.addresses(name)
        if addresses:
            return Found(addresses[:_MOST_ADDRESSES], _LONGEST_TTL_S)
        until, found = self._kept.get(name, (0.0, Found()))
        left = until - self._clock()
        if left > 0:
            return replace(found, ttl=int(left))
        if name not in self._asked:
            self._asked[name] = asyncio.create_task(self._lookup(name))
            self._asked[name].add_done_callback(lambda _: self._asked.pop(name, None))
        # Who gives up must not take the answer from the others who wait for it.
        return await asyncio.shield(self._asked[name])

    async def _lookup(self, name: str) -> Found:
        try:
            async with asyncio.timeout(LOOKUP_S), self._places:
                found = await self._ask(name)
        except (TimeoutError, OSError):
            found = Found(failure="lookup_failed")
        kept_s = min(max(found.ttl, 1), _LONGEST_TTL_S if found.addresses else _NEGATIVE_TTL_S)
        self._kept[name] = (self._clock() + kept_s, found)
        self._kept.move_to_end(name)
        if len(self._kept) > NAMES_KEPT:
            self._kept.popitem(last=False)
        return replace(found, ttl=kept_s)


def ask_nameservers(nameservers: Nameservers) -> Callable[[str], Awaitable[Found]]:
    """Look-ups in DNS, of both families at once."""
    backend = dns.asyncbackend.get_backend("asyncio")

    async def ask_family(name: str, family: dns.rdatatype.RdataType) -> Found:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = list(nameservers.addresses())
        resolver.timeout, resolver.lifetime = _TRY_S, LOOKUP_S
        resolver.use_edns(0, 0, _PAYLOAD)
        alias, ttl = dns.name.from_text(name), _LONGEST_TTL_S
        for _ in range(_MOST_ALIASES):
            try:
                answer = await resolver.resolve(
                    alias, family, raise_on_no_answer=False, search=False, backend=backend
                )
            except dns.resolver.NXDOMAIN:
                return Found(failure="name_not_found")
            except (dns.exception.DNSException, OSError, ValueError):
                return Found(failure="lookup_failed")
            ttl = min(ttl, answer.chaining_result.minimum_ttl)
            if answer.rrset is not None:
                records = cast("list[dns.rdata.Rdata]", list(answer.rrset))
                addresses = tuple([str(record) for record in records[:_MOST_ADDRESSES]])
                return Found(addresses, ttl)
            if answer.canonical_name == alias:
                return Found(failure="name_not_found")
            alias = answer.canonical_name
        return Found(failure="lookup_failed")

    async def ask(name: str) -> Found:
        both = await asyncio.gather(ask_family(name, dns.rdatatype.A), ask_family(name, dns.rdatatype.AAAA))
        addresses = tuple([address for found in both for address in found.addresses])
        failures = [found.failure for found in both if found.failure]
        if not addresses:
            failed = "lookup_failed" in failures
            return Found(failure="lookup_failed" if failed else "name_not_found")
        ttls = [found.ttl for found in both if found.addresses]
        return Found(addresses, _NEGATIVE_TTL_S if "lookup_failed" in failures else min(ttls))

    return ask
