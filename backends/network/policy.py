"""What a sandbox's network may do, in our own words: the one rule model of every backend. Pure data.

Order of evaluation (spec: policy-semantics.md §3.1): what belongs to the host itself is closed; then `deny`;
then `allow`; then `egress_allowed`. A rule matches where any of its peers and any of its ports do. Names are
the filtering proxy's matter: no rule ever holds the addresses of one.
"""

from __future__ import annotations

from enum import Enum

from backends.frozen import frozen

__all__ = [
    "NO_NETWORK",
    "Ceiling",
    "Direction",
    "Inspection",
    "NameRule",
    "NetworkPolicy",
    "Peer",
    "PortMapping",
    "Ports",
    "Protocol",
    "ProxyEndpoint",
    "Rule",
]


class Protocol(Enum):
    """`ANY` with ports is TCP and UDP, without them everything. `ICMP` is ICMPv6 where addresses are IPv6."""

    ANY = "any"
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"


@frozen
class Ports:
    """One entry of a rule's `ports`: `first` to `last`, both included; None: every port."""

    protocol: Protocol = Protocol.ANY
    first: int | None = None
    last: int | None = None


@frozen
class Peer:
    """The addresses of one network (``192.0.2.0/24``, ``2001:db8::/32``), without those of `excepted`."""

    cidr: str
    excepted: tuple[str, ...] = ()


@frozen
class Rule:
    """`name` is what counters and events call it (``egress.allow.0``), `pointer` where the user wrote it.

    Without peers it is about every address of both families, without ports about every protocol and port.
    """

    name: str
    pointer: str
    to: tuple[Peer, ...] = ()
    ports: tuple[Ports, ...] = ()


class Inspection(Enum):
    """How a connection must prove which name it is for: ``TLS`` by the name in its first message, ``HTTP`` by
    each request, ``NONE`` by what was asked of the proxy."""

    TLS = "tls"
    HTTP = "http"
    NONE = "none"


@frozen
class NameRule:
    """Hosts by name, through the filtering proxy.

    Parameters
    ----------
    name: what events call it (``names.0``).
    pattern: ``example.test``, ``*.example.test`` (any name below it, not itself) or ``*``; in lower case.
    ports: (first, last), both included.
    methods: of plain HTTP; empty: all of them.
    addresses: networks that are not public, in which the name's addresses may lie all the same.
    inspection: None: HTTP on port 80, TLS on every other.
    """

    name: str
    pointer: str
    pattern: str
    ports: tuple[tuple[int, int], ...] = ((80, 80), (443, 443))
    methods: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    inspection: Inspection | None = None


class Direction(Enum):
    TO_SANDBOX = "toSandbox"
    TO_HOST = "toHost"


@frozen
class PortMapping:
    """A port that is reached through the boundary: ``TO_SANDBOX``, the host listens at `host_address` and
    `host_port`, and the sandbox answers at `sandbox_port`; ``TO_HOST``, the other way round, and
    `host_address` is of the host's loopback."""

    name: str
    pointer: str
    direction: Direction
    protocol: Protocol
    host_address: str
    host_port: int
    sandbox_port: int


@frozen
class ProxyEndpoint:
    """The caller's own proxy, on the host's loopback: then nothing else is reachable."""

    pointer: str
    scheme: str
    host: str
    port: int


@frozen
class Ceiling:
    """What the owner may open later, in a sandbox that is kept."""

    allow: tuple[Rule, ...] = ()
    names: tuple[NameRule, ...] = ()


@frozen
class NetworkPolicy:
    """All of it. `denied_names` win over `names`; `deny` holds for what the proxy connects to as well."""

    egress_allowed: bool = False
    deny: tuple[Rule, ...] = ()
    allow: tuple[Rule, ...] = ()
    names: tuple[NameRule, ...] = ()
    denied_names: tuple[NameRule, ...] = ()
    mappings: tuple[PortMapping, ...] = ()
    proxy: ProxyEndpoint | None = None
    ceiling: Ceiling = Ceiling()

    @property
    def needs_uplink(self) -> bool:
        """Whether packets themselves may leave, now or later, not only what the proxy carries."""
        return self.egress_allowed or bool(self.allow or self.ceiling.allow)

    @property
    def needs_names(self) -> bool:
        """Whether our filtering proxy is needed, now or later."""
        return bool(self.names or self.denied_names or self.ceiling.names)

    @property
    def is_isolated(self) -> bool:
        """Whether nothing is ever reached: then an empty namespace is all that it takes."""
        return self == NO_NETWORK


NO_NETWORK = NetworkPolicy()
