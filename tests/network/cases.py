"""What the tables of network rules are written in: policies, with cases of probes and what comes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

__all__ = ["Case", "Expected", "Policy", "allowed", "denied", "egress", "to"]


@dataclass(frozen=True)
class Expected:
    """One probe: what is tried, whether it is answered, and which rule says so (None: no rule is asked)."""

    kind: str
    to: str
    port: int | None
    reached: bool
    rule: str | None

    def as_probe(self) -> dict[str, Any]:
        named = {"name": "four.example.test"} if self.kind == "dns" else {}
        return {"kind": self.kind, "to": self.to, "port": self.port, "reached": self.reached, **named}

    @property
    def address(self) -> str:
        """In the family in which it travels."""
        address = ip_address(self.to)
        return str(getattr(address, "ipv4_mapped", None) or address)

    @property
    def protocol(self) -> str:
        return "udp" if self.kind == "dns" else self.kind

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.kind, self.to, self.port) if part is not None)


@dataclass(frozen=True)
class Case:
    """One feature of a policy, with what it allows and what it does not."""

    about: str
    expected: tuple[Expected, ...]

    def __init__(self, about: str, *expected: tuple[Expected, ...]) -> None:
        object.__setattr__(self, "about", about)
        object.__setattr__(self, "expected", tuple(one for group in expected for one in group))


@dataclass(frozen=True)
class Policy:
    """`sections` are of the document: `network`, `version` where it is not the newest, `mxcOps`."""

    name: str
    sections: Mapping[str, Any]
    cases: tuple[Case, ...] = field(default=())


def allowed(rule: str | None, *texts: str) -> tuple[Expected, ...]:
    """Each ``PROTOCOLS ADDRESSES [PORTS]``, lists with commas: all of them are answered, by `rule`."""
    return tuple(one for text in texts for one in _each(text, True, rule))


def denied(rule: str | None, *texts: str) -> tuple[Expected, ...]:
    """None of them is answered, and `rule` says so."""
    return tuple(one for text in texts for one in _each(text, False, rule))


def egress(**fields: Any) -> dict[str, Any]:
    """The sections of a document with this `network.egress`."""
    return {"network": {"egress": fields}}


def to(*networks: str, ports: tuple[Mapping[str, Any], ...] = ()) -> dict[str, Any]:
    """A rule of a document; a network may be followed by ``-`` and what is taken out of it."""
    rule: dict[str, Any] = {}
    if networks:
        rule["to"] = [_peer(text) for text in networks]
    if ports:
        rule["ports"] = [dict(one) for one in ports]
    return rule


def _peer(text: str) -> dict[str, Any]:
    cidr, *holes = text.split(" - ")
    return {"cidr": cidr, **({"except": holes} if holes else {})}


def _each(text: str, reached: bool, rule: str | None) -> Iterator[Expected]:
    protocols, addresses, *ports = text.split()
    for protocol in protocols.split(","):
        for address in addresses.split(","):
            if protocol in ("icmp", "own"):
                yield Expected(protocol, address, None, reached, rule)
                continue
            for port in ports[0].split(","):
                yield Expected(protocol, address, int(port), reached, rule)
