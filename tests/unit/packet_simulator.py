"""Runs a packet through the text of a generated ruleset, on any system: what would nftables do with it?

It knows the part of nft(8) that the generator writes, and refuses any other word. Addresses are read by
`ipaddress`, not by the generator's own arithmetic.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

__all__ = ["CONFIRMED", "DNAT", "Outcome", "Packet", "Simulator"]

CONFIRMED, DNAT = 0x08, 0x20
Address = IPv4Address | IPv6Address
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58}
_ICMP_TYPES = {
    "icmp": {"destination-unreachable": 3, "time-exceeded": 11, "parameter-problem": 12},
    "icmpv6": {
        "destination-unreachable": 1,
        "packet-too-big": 2,
        "time-exceeded": 3,
        "parameter-problem": 4,
        "nd-neighbor-solicit": 135,
        "nd-neighbor-advert": 136,
    },
}
_TOKEN = re.compile(r'"[^"]*"|\{[^}]*\}|\S+')
_PRIORITIES = {"mangle": -150, "dstnat": -100, "filter": 0, "srcnat": 100}


@dataclass(frozen=True)
class Packet:
    """A packet, and what conntrack knows of its connection; `original` is the latter's first destination."""

    source: Address
    destination: Address
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 0
    iif: str = ""
    oif: str = ""
    state: str = "new"
    direction: str = "original"
    status: int = 0
    mark: int = 0
    original: tuple[Address, int] | None = None
    hop_limit: int = 64
    later_fragment: bool = False
    route: str = ""  # what names further destinations: lsrr, ssrr, rt
    reset: bool = False

    @property
    def family(self) -> int:
        return self.destination.version

    @property
    def first_destination(self) -> tuple[Address, int]:
        return self.original or (self.destination, self.destination_port)


@dataclass
class Outcome:
    """`verdict` is accept, drop or reject, `answer` how it is rejected. `rule` is the last that counted, and
    `events` are the log's prefixes."""

    packet: Packet
    verdict: str = ""
    rule: str = ""
    events: list[str] = field(default_factory=list[str])
    answer: str = ""


@dataclass(frozen=True)
class _Base:
    name: str
    kind: str
    hook: str
    priority: int
    policy: str


class _Stop(Exception):
    """The base chain has a verdict."""


class Simulator:
    """Parameters: `text`, as `ruleset` made it. Raises `ValueError` for what it does not know."""

    def __init__(self, text: str) -> None:
        self.counters = re.findall(r"^\tcounter (\S+) \{ \}$", text, re.M)
        self.sets = {name: _members(body) for name, body in _declared("set", text)}
        self.accounts = {int(a, 0): b for _, body in _declared("map", text) for a, b in _pairs(body)}
        self.chains: dict[str, list[list[str]]] = {}
        self.bases: list[_Base] = []
        for name, body in re.findall(r"^\tchain (\S+) \{\n(.*?)^\t\}$", text, re.M | re.S):
            lines = [line.strip() for line in body.splitlines()]
            if lines and lines[0].startswith("type "):
                self.bases.append(_base(name, lines.pop(0)))
            self.chains[name] = [_TOKEN.findall(line) for line in lines]

    def run(self, hook: str, packet: Packet) -> Outcome:
        """What becomes of `packet` at `hook`; where it is accepted, `packet` of the outcome goes on."""
        outcome = Outcome(packet)
        for base in sorted((one for one in self.bases if one.hook == hook), key=lambda one: one.priority):
            untranslated = packet.state == "new" and not packet.status
            if base.kind == "nat" and not untranslated:
                continue
            outcome.verdict = base.policy
            with suppress(_Stop):
                self._chain(base.name, outcome)
            if outcome.verdict != "accept":
                break
        return outcome

    def _chain(self, name: str, outcome: Outcome) -> None:
        """Run a chain to its end, or to a `goto`, after whose chain this one does not go on."""
        for rule in self.chains[name]:
            going = _Rule(self, list(rule), outcome).run()
            if going is not None:
                way, target = going
                self._chain(target, outcome)
                if way == "goto":
                    return


class _Rule:
    def __init__(self, simulator: Simulator, words: list[str], outcome: Outcome) -> None:
        self.simulator, self.words, self.outcome = simulator, words, outcome

    def run(self) -> tuple[str, str] | None:
        """Consume the words up to the first condition that fails. Returns where to go on, if elsewhere."""
        while self.words:
            word = self.words.pop(0)
            if word in ("goto", "jump"):
                return word, self.words.pop(0)
            step: Callable[[], bool] | None = getattr(self, f"_{word}", None)
            if step is None:
                raise ValueError(f"unknown word {word!r}")
            if not step():
                return None
        return None

    @property
    def packet(self) -> Packet:
        return self.outcome.packet

    def _take(self, *expected: str) -> None:
        for word in expected:
            found = self.words.pop(0)
            if found != word:
                raise ValueError(f"{found!r} where {word!r} was expected")

    def _is_not(self) -> bool:
        if self.words[0] == "!=":
            self.words.pop(0)
            return True
        return False

    def _member(self, value: Any, read: Callable[[str], Any]) -> bool:
        """Whether `value` is on the right side, which may be negated: a set, a range, or one value."""
        negated = self._is_not()
        text = self.words.pop(0)
        items = text[1:-1].split(",") if text.startswith("{") else text.split(",")
        return any(_within(value, item.strip(), read) for item in items) is not negated

    # Conditions

    def _meta(self) -> bool:
        what = self.words.pop(0)
        if what == "nfproto":
            return self._member(f"ipv{self.packet.family}", str)
        if what == "l4proto":
            return self._member(self.packet.protocol, _PROTOCOLS.__getitem__)
        raise ValueError(f"unknown meta {what}")

    def _iifname(self) -> bool:
        return self._member(f'"{self.packet.iif}"', str)

    def _oifname(self) -> bool:
        return self._member(f'"{self.packet.oif}"', str)

    def _address(self, family: int) -> bool:
        what = self.words.pop(0)
        if what == "frag-off":
            self._take("&", "0x1fff", "!=", "0")
            return self.packet.family == family and self.packet.later_fragment
        if what == "option":
            route = self.words.pop(0)
            self._take("exists")
            return self.packet.family == 4 and self.packet.route == route
        if what == "hoplimit":
            return self._member(self.packet.hop_limit, int) and self.packet.family == family
        address = {"saddr": self.packet.source, "daddr": self.packet.destination}[what]
        return self.packet.family == family and self._member(address, ip_network)

    def _ip(self) -> bool:
        return self._address(4)

    def _ip6(self) -> bool:
        return self._address(6)

    def _frag(self) -> bool:
        self._take("frag-off", "!=", "0")
        return self.packet.family == 6 and self.packet.later_fragment

    def _exthdr(self) -> bool:
        self._take("rt", "exists")
        return self.packet.family == 6 and self.packet.route == "rt"

    def _icmp(self) -> bool:
        self._take("type")
        met = self._member(self.packet.icmp_type, _ICMP_TYPES["icmp"].__getitem__)
        return met and self.packet.protocol == 1 and self.packet.family == 4

    def _icmpv6(self) -> bool:
        self._take("type")
        met = self._member(self.packet.icmp_type, _ICMP_TYPES["icmpv6"].__getitem__)
        return met and self.packet.protocol == 58 and self.packet.family == 6

    def _port(self, protocols: tuple[int, ...]) -> bool:
        side = self.words.pop(0)
        port = {"dport": self.packet.destination_port, "sport": self.packet.source_port}[side]
        met = self._member(port, int)
        return met and self.packet.protocol in protocols and not self.packet.later_fragment

    def _tcp(self) -> bool:
        if self.words[0] == "flags":
            self._take("flags", "&", "rst", "==", "rst")
            return self.packet.protocol == 6 and self.packet.reset
        return self._port((6,))

    def _udp(self) -> bool:
        return self._port((17,))

    def _th(self) -> bool:
        return self._port((6, 17))

    def _ct(self) -> bool:
        what = self.words.pop(0)
        packet = self.packet
        if what == "state":
            return self._member(packet.state, str)
        if packet.state in ("invalid", "untracked"):
            return False
        if what == "direction":
            return self._member(packet.direction, str)
        if what == "status":
            self._take("&", "0x28", "==", "0x08")
            return packet.status & 0x28 == 0x08
        if what == "mark" and self.words[0] == "set":
            self.words.pop(0)
            self.outcome.packet = replace(packet, mark=int(self.words.pop(0), 0))
            return True
        if what == "mark":
            return self._member(packet.mark, lambda text: int(text, 0))
        if what == "original":
            return self._original()
        raise ValueError(f"unknown ct {what}")

    def _original(self) -> bool:
        what = self.words.pop(0)
        address, port = self.packet.first_destination
        if what == "proto-dst":
            return self._member(port, int)
        self._take("daddr")
        if address.version != {"ip": 4, "ip6": 6}[what]:
            return False
        if self.words[0] == "&":
            self._take("&")
            mask = int(ip_address(self.words.pop(0)))
            address = type(address)(int(address) & mask)
        if self.words[0].startswith("@"):
            return any(first <= address <= last for first, last in self.simulator.sets[self.words.pop(0)[1:]])
        return self._member(address, ip_network)

    def _limit(self) -> bool:
        self._take("rate", "50/second", "burst", "100", "packets")
        return True

    # Statements

    def _counter(self) -> bool:
        self._take("name")
        name = self.words.pop(0)
        if name == "ct":
            self._take("mark", "map", "@accounts")
            name = self.simulator.accounts[self.packet.mark]
        if name not in self.simulator.counters:
            raise ValueError(f"no counter {name}")
        self.outcome.rule = name
        return True

    def _log(self) -> bool:
        self._take("prefix")
        self.outcome.events.append(self.words.pop(0).strip('"'))
        self._take("group", "5")
        return True

    def _end(self, verdict: str) -> bool:
        self.outcome.verdict = verdict
        raise _Stop

    def _accept(self) -> bool:
        return self._end("accept")

    def _drop(self) -> bool:
        return self._end("drop")

    def _reject(self) -> bool:
        self.outcome.answer = " ".join(self.words)
        return self._end("reject")

    def _masquerade(self) -> bool:
        return self._end("accept")

    def _dnat(self) -> bool:
        family = {"ip": 4, "ip6": 6}[self.words.pop(0)]
        self._take("to")
        address, _, port = self.words.pop(0).rpartition(":")
        to = ip_address(address.strip("[]"))
        if to.version != family or to.version != self.packet.family:
            raise ValueError(f"{to} is of another family")
        self.outcome.packet = replace(
            self.packet,
            original=self.packet.first_destination,
            destination=to,
            destination_port=int(port),
            status=self.packet.status | DNAT,
        )
        return self._end("accept")


def _within(value: Any, item: str, read: Callable[[str], Any]) -> bool:
    if isinstance(value, (IPv4Address, IPv6Address)):
        return any(first <= value <= last for first, last in [_block(item)] if first.version == value.version)
    if isinstance(value, int) and "-" in item and not item[0].isalpha():
        first, _, last = item.partition("-")
        return read(first) <= value <= read(last)
    return read(item) == value


@lru_cache(4096)
def _block(text: str) -> tuple[Any, Any]:
    first, dash, last = text.partition("-")
    if dash:
        return ip_address(first), ip_address(last)
    network = ip_network(text)
    return network.network_address, network.broadcast_address


def _declared(kind: str, text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = re.findall(
        rf"^\t{kind} (\S+) \{{ [^{{}}]*(?:elements = \{{ (.*) \}})?$", text, re.M
    )
    return found


def _pairs(body: str) -> list[tuple[str, str]]:
    return [(pair.split(" : ")[0], pair.split(" : ")[1]) for pair in body.split(", ")]


def _members(body: str) -> list[tuple[Any, Any]]:
    return [_block(item) for item in body.split(", ") if item]


def _base(name: str, line: str) -> _Base:
    found = re.fullmatch(r"type (filter|nat) hook (\w+) priority (\S+); policy (\w+);", line)
    if found is None:
        raise ValueError(f"unknown base chain {line!r}")
    kind, hook, priority, policy = found.groups()
    number = _PRIORITIES.get(priority)
    return _Base(name, kind, hook, int(priority) if number is None else number, policy)
