"""Made-up networks of a host, and policies for them: what plans are made from in tests."""

from __future__ import annotations

from backends.frozen import replace
from backends.network.facts import Bridge, NetworkFacts
from backends.network.policy import (
    Direction,
    NameRule,
    NetworkPolicy,
    Peer,
    PortMapping,
    Ports,
    Protocol,
    ProxyEndpoint,
    Rule,
)

FACTS = NetworkFacts(
    nft="/usr/sbin/nft",
    pasta="/usr/bin/pasta",
    slirp="/usr/bin/slirp4netns",
    bridge=Bridge("mxcbr0", "10.187.0.1/22", "fdb5:6d78:62::1/64"),
    forwards=(4, 6),
    carries=(4, 6),
    addresses=("10.187.0.1", "203.0.113.2", "2001:db8:113::2"),
    nameservers=("203.0.113.53",),
)
WITHOUT_PASTA = replace(FACTS, pasta="")

RULES = NetworkPolicy(
    deny=(Rule("egress.deny.0", "/network/egress/deny/0", (Peer("192.0.2.7/32"),)),),
    allow=(
        Rule(
            "egress.allow.0",
            "/network/egress/allow/0",
            (Peer("192.0.2.0/24"), Peer("2001:db8:2::/64")),
            (Ports(Protocol.TCP, 443, 443),),
        ),
    ),
)
NAMES = NetworkPolicy(names=(NameRule("names.0", "/mxcOps/network/names/0", "example.test"),))
PROXY = NetworkPolicy(proxy=ProxyEndpoint("/runtimeConfig/networkProxy", "http", "127.0.0.1", 3128))
PORTS = NetworkPolicy(
    mappings=(
        PortMapping(
            *("portMappings.0", "/mxcOps/portMappings/0", Direction.TO_SANDBOX),
            *(Protocol.TCP, "127.0.0.1", 8080, 80),
        ),
        PortMapping(
            *("portMappings.1", "/mxcOps/portMappings/1", Direction.TO_HOST),
            *(Protocol.UDP, "127.0.0.1", 53, 5353),
        ),
    )
)
