"""The table of networks by name: what the filtering proxy lets through, however it is asked. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["NAMES", "NameCase", "NamePolicy", "Try"]

LAB = ["192.0.2.0/24", "2001:db8:2::/64"]
"""In which the names of the bed lie, none of which is public."""
WEB, DEEP, SECOND = "web.example.test", "a.deep.example.test", "second.test"
BIG = 3_000_000


@dataclass(frozen=True)
class Try:
    """A probe, whether it succeeds, what is in what it tells, and why, in an event, it was denied."""

    probe: Mapping[str, Any]
    reached: bool
    said: str = ""
    reason: str = ""


@dataclass(frozen=True)
class NameCase:
    about: str
    tries: tuple[Try, ...]

    def __init__(self, about: str, *tries: Try) -> None:
        object.__setattr__(self, "about", about)
        object.__setattr__(self, "tries", tries)


@dataclass(frozen=True)
class NamePolicy:
    """Nothing goes to the addresses `untouched`, and the names `unasked` are not looked up for it."""

    name: str
    sections: Mapping[str, Any]
    cases: tuple[NameCase, ...]
    untouched: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()


def yes(kind: str, said: str = "", **probe: Any) -> Try:
    return Try({"kind": kind, **probe}, True, said)


def no(kind: str, said: str = "", reason: str = "", **probe: Any) -> Try:
    return Try({"kind": kind, **probe, "reached": False, "wait": 10}, False, said, reason)


def _names(*entries: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"mxcOps": {"network": {"names": list(entries), **more}}}


def _in_lab(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "addresses": LAB, **fields}


def _tunnels(name: str, port: int, said: str, **more: Any) -> tuple[Try, ...]:
    """The same by CONNECT and by SOCKS, which says of its refusals only that they are ones."""
    common = {"name": name, "port": port, **more}
    return (
        no("tunnel", f"403 X-Mxc-Denied: {said}", said, by="connect", **common),
        no("tunnel", "socks 2", said, by="socks", **common),
    )


def _leads_nowhere(name: str, reason: str) -> NameCase:
    return NameCase(
        f"an allowed name may not lead there: {reason}, {name}",
        yes("lookup", name=WEB),
        no("url", f"403 {reason}", reason, url=f"http://{name}/"),
        no("lookup", name=name),
        no("straight", "", name=name, to="192.0.2.9", port=443, speak="tls", reason=reason),
    )


SMALL: Mapping[str, Any] = {"speak": "tls", "port": 443}
EXPLICIT = (
    NameCase(
        "plain HTTP through the variables' proxy",
        yes("url", f'"host": "{WEB}"', url=f"http://{WEB}/path?query"),
        no("url", "403 name_not_allowed", "name_not_allowed", url=f"http://{SECOND}/"),
    ),
    NameCase(
        "HTTPS through the variables' proxy",
        yes("url", f'"sni": "{WEB}"', url=f"https://{WEB}/"),
        no("url", "403", "name_not_allowed", url=f"https://{SECOND}/"),
    ),
    NameCase(
        "method, target and headers arrive as they were sent",
        yes("url", '"method": "PUT", "target": "/a?b=c"', url=f"http://{WEB}/a?b=c", method="PUT"),
        yes("url", '"x-own": "kept"', url=f"http://{WEB}/", headers={"X-Own": "kept"}),
        no("url", "403", url=f"http://{SECOND}/a?b=c", method="PUT"),
    ),
    NameCase(
        "a tunnel by CONNECT and by SOCKS5",
        yes("tunnel", f'"sni": "{WEB}"', by="connect", name=WEB, **SMALL),
        yes("tunnel", f'"sni": "{WEB}"', by="socks", name=WEB, **SMALL),
        *_tunnels(SECOND, 443, "name_not_allowed", speak="tls"),
    ),
    NameCase(
        "a tunnel is for the name that was asked for, whatever its content names",
        yes("tunnel", f'"sni": "{WEB}"', by="connect", name=WEB, **SMALL),
        no("tunnel", "", "sni_mismatch", by="connect", name=WEB, sni="same.example.test", **SMALL),
        no("tunnel", "", "no_sni", by="socks", name=WEB, sni=None, **SMALL),
    ),
    NameCase(
        "a port that is not among the rule's",
        yes("tunnel", f'"sni": "{WEB}"', by="socks", name=WEB, **SMALL),
        *_tunnels(WEB, 8443, "port_not_allowed", speak="tls"),
        *_tunnels(WEB, 8000, "port_not_allowed", speak="greeting"),
    ),
    NameCase(
        "a range of ports, and what is not looked into",
        yes(
            "tunnel",
            "tcp 192.0.2.80 8000",
            by="connect",
            name="four.example.test",
            port=8000,
            speak="greeting",
        ),
        yes(
            "tunnel", "tcp 192.0.2.80 8010", by="socks", name="four.example.test", port=8010, speak="greeting"
        ),
        *_tunnels("four.example.test", 8011, "port_not_allowed", speak="greeting"),
        *_tunnels("four.example.test", 7999, "port_not_allowed", speak="greeting"),
    ),
    NameCase(
        "an address is no name",
        yes("tunnel", by="socks", name=WEB, **SMALL),
        *_tunnels("192.0.2.80", 443, "address_literal", speak="tls"),
        no("tunnel", "socks 2", "address_literal", by="socks", name="192.0.2.80", literal=True, **SMALL),
        no("url", "403 address_literal", "address_literal", url="http://192.0.2.80/"),
    ),
    NameCase(
        "the requests of one connection, each decided by itself",
        yes("several", f'"host": "{WEB}"', urls=[f"http://{WEB}/1", f"http://{DEEP}/2", f"http://{WEB}/3"]),
        yes("several", ", 403]", urls=[f"http://{WEB}/1", f"http://{SECOND}/2"]),
        no("url", "403", url=f"http://{SECOND}/2"),
    ),
    NameCase(
        "a rule's methods",
        yes("url", '"method": "GET"', url="http://other.test/"),
        no("url", "403 method_not_allowed", "method_not_allowed", url="http://other.test/", method="POST"),
        no("url", "403 method_not_allowed", "method_not_allowed", url="http://other.test/", method="DELETE"),
    ),
    NameCase(
        "any name below a suffix, not itself",
        yes("url", f'"host": "{DEEP}"', url=f"http://{DEEP}/"),
        no("url", "403 name_not_allowed", "name_not_allowed", url="http://deep.example.test/"),
        no("url", "403 name_not_allowed", "name_not_allowed", url="http://adeep.example.test/"),
    ),
    NameCase(
        "by IPv6 alone",
        yes("url", '"2001:db8:2::80"', url="http://six.example.test/"),
        no("url", "403", "port_not_allowed", url="http://six.example.test:8080/"),
    ),
    NameCase(
        "a public address needs no permission of its own, every other one does",
        yes("url", '"host": "public.test"', url="http://public.test/"),
        no("url", "403 address_private", "address_private", url="http://same.example.test/"),
    ),
    NameCase(
        "bytes arrive whole, in both directions",
        *(
            yes("content", way=way, size=BIG, url=f"{scheme}://{WEB}")
            for way in ("up", "down")
            for scheme in ("http", "https")
        ),
        no("content", "403", way="up", size=1000, url=f"http://{SECOND}"),
    ),
)
TRANSPARENT = (
    NameCase(
        "DNS knows the names that are allowed, and no others",
        yes("lookup", "192.0.2.80", name=WEB),
        yes("lookup", "192.0.2.80", name=DEEP),
        no("lookup", name=SECOND),
        no("lookup", name="deep.example.test"),
    ),
    NameCase(
        "whichever name server is asked, by UDP and TCP",
        yes("dns", to="192.0.2.53", port=53, name=WEB),
        yes("dns", to="198.51.100.9", port=53, name=WEB, over="tcp"),
        yes("dns", to="2001:db8:2::53", port=53, name=WEB),
        no("dns", "code 3", to="192.0.2.53", port=53, name=SECOND),
        no("dns", "code 3", to="192.0.2.53", port=53, name=SECOND, over="tcp"),
        no("dns", "0 answers", to="192.0.2.53", port=53, name=WEB, type=16),
    ),
    NameCase(
        "plain HTTP that knows of no proxy",
        yes("url", f'"host": "{WEB}"', url=f"http://{WEB}/", direct=True),
        no("straight", "403 name_not_allowed", name=SECOND, to="192.0.2.80", port=80, speak="http"),
    ),
    NameCase(
        "HTTPS that knows of no proxy",
        yes("url", f'"sni": "{WEB}"', url=f"https://{WEB}/", direct=True),
        no("straight", "", "name_not_allowed", name=SECOND, to="192.0.2.80", port=443, speak="tls"),
    ),
    NameCase(
        "a request's Host decides, wherever it was sent",
        yes(
            "straight",
            '"reached": ["192.0.2.80"',
            name="four.example.test",
            to="192.0.2.99",
            port=80,
            speak="http",
        ),
        no("straight", "403", "name_not_allowed", name=WEB, port=80, speak="http", host=SECOND),
        no("straight", "403", "address_literal", name=WEB, port=80, speak="http", host="192.0.2.80"),
    ),
    NameCase(
        "the name that TLS asks for decides, wherever it was sent",
        yes("straight", f'"sni": "{DEEP}"', name=WEB, to="198.51.100.9", sni=DEEP, **SMALL),
        no("straight", "", "name_not_allowed", name=WEB, sni=SECOND, **SMALL),
        no("straight", "", "no_sni", name=WEB, sni=None, **SMALL),
    ),
    NameCase(
        "IPv6 is turned to the proxy as well",
        yes("straight", f'"sni": "{WEB}"', name=WEB, to="2001:db8:2::80", **SMALL),
        no("straight", "", "name_not_allowed", name=SECOND, to="2001:db8:2::80", **SMALL),
    ),
    NameCase(
        "what is neither HTTP nor TLS goes nowhere there, and nothing goes directly",
        yes("lookup", name=WEB),
        no("tcp", to="192.0.2.80", port=8000),
        no("udp", to="192.0.2.80", port=8000),
        no("icmp", to="192.0.2.80"),
        no("tcp", to="2001:db8:2::80", port=8000),
    ),
)
HOSTILE = (
    _leads_nowhere("loop.example.test", "address_loopback"),
    _leads_nowhere("meta.example.test", "address_link_local"),
    _leads_nowhere("private.example.test", "address_private"),
    _leads_nowhere("host.example.test", "address_of_host"),
    _leads_nowhere("bridge.example.test", "address_of_host"),
    NameCase(
        "of several addresses those that may be reached",
        yes("url", '"reached": ["192.0.2.80"', url="http://mixed.example.test/"),
        yes("lookup", "192.0.2.80", name="mixed.example.test"),
        no("url", "403", url="http://loop.example.test/"),
    ),
    NameCase(
        "a name that changes its address after it was reached",
        yes("url", '"reached": ["192.0.2.80"', url="http://turning.example.test/"),
        no("url", "403 address_loopback", "address_loopback", url="http://turning.example.test/", after=2),
    ),
)
_EVERYTHING = (
    *(_in_lab(WEB), _in_lab("*.deep.example.test"), _in_lab("six.example.test"), {"name": "public.test"}),
    {"name": "same.example.test"},
    _in_lab("four.example.test", ports=[{"port": 8000, "endPort": 8010}], inspect="none"),
    _in_lab("four.example.test"),
    _in_lab("other.test", ports=[80], methods=["GET"]),
)
_HOSTILE_NAMES = ("loop", "meta", "private", "host", "bridge", "mixed", "turning")

NAMES = (
    NamePolicy("explicit", _names(*_EVERYTHING), EXPLICIT, ("93.184.216.35",), (SECOND,)),
    NamePolicy(
        "transparent", _names(*_EVERYTHING), TRANSPARENT, ("93.184.216.35",), (SECOND, "deep.example.test")
    ),
    NamePolicy(
        "hostile",
        _names(_in_lab(WEB), *(_in_lab(f"{name}.example.test") for name in _HOSTILE_NAMES)),
        HOSTILE,
        ("169.254.169.254", "10.9.8.7"),
    ),
    NamePolicy(
        "beside-addresses",
        {
            "network": {
                "egress": {
                    "allow": [
                        {"to": [{"cidr": "192.0.2.80"}], "ports": [{"protocol": "tcp", "port": 8000}]},
                        {"to": [{"cidr": "192.0.2.81"}], "ports": [{"protocol": "tcp", "port": 443}]},
                    ],
                    "deny": [{"to": [{"cidr": "93.184.216.0/24"}, {"cidr": "2606:2800:220::/48"}]}],
                }
            },
            **_names(_in_lab(WEB), {"name": "public.test"}),
        },
        (
            NameCase(
                "an allowed address is reached directly, by its own port alone",
                yes("tcp", "tcp 192.0.2.80 8000", to="192.0.2.80", port=8000),
                no("tcp", to="192.0.2.80", port=8001),
                no("udp", to="192.0.2.80", port=8000),
            ),
            NameCase(
                "also on a port that else leads to the proxy",
                yes("straight", '"reached": ["192.0.2.81"', name=SECOND, to="192.0.2.81", **SMALL),
                no("straight", "", "name_not_allowed", name=SECOND, to="192.0.2.82", **SMALL),
            ),
            NameCase(
                "names beside it",
                yes("url", f'"sni": "{WEB}"', url=f"https://{WEB}/"),
                no("url", "403", "name_not_allowed", url=f"http://{SECOND}/"),
            ),
            NameCase(
                "a denied address is denied by name, too",
                yes("url", url=f"http://{WEB}/"),
                no("url", "403 address_denied", "address_denied", url="http://public.test/"),
            ),
        ),
        ("93.184.216.34",),
    ),
    NamePolicy(
        "denied-names",
        _names(
            _in_lab("*", ports=[80, 443, 8443]),
            deniedNames=[{"name": "other.test"}, {"name": "*.deep.example.test"}],
        ),
        (
            NameCase(
                "every name but one",
                yes("url", f'"host": "{WEB}"', url=f"http://{WEB}/"),
                yes("url", '"host": "public.test"', url="http://public.test/"),
                no("url", "403 name_denied", "name_denied", url="http://other.test/"),
                no("lookup", name="other.test"),
            ),
            NameCase(
                "on every port, and however it is asked for",
                yes("tunnel", f'"sni": "{WEB}"', by="connect", name=WEB, port=8443, speak="tls"),
                *_tunnels("other.test", 8443, "name_denied", speak="tls"),
                no("straight", "", "name_denied", name="other.test", to="192.0.2.9", **SMALL),
                no("url", "403 name_denied", "name_denied", url="http://OTHER.test./"),
            ),
            NameCase(
                "all names below a suffix",
                yes("url", '"host": "example.test"', url="http://example.test/"),
                no("url", "403 name_denied", "name_denied", url=f"http://{DEEP}/"),
            ),
        ),
        ("192.0.2.81",),
        ("other.test", DEEP),
    ),
    NamePolicy(
        "legacy-allowed",
        {
            "version": "0.6.0-alpha",
            "network": {"defaultPolicy": "block", "allowedHosts": ["public.test", WEB, "192.0.2.7"]},
        },
        (
            NameCase(
                "a name of allowedHosts, on every port that tells its name",
                yes("url", '"host": "public.test"', url="http://public.test/"),
                yes("url", '"sni": "public.test"', url="https://public.test:8443/"),
                no("url", "403", "name_not_allowed", url=f"https://{SECOND}/"),
                no("tunnel", "", "not_tls", by="connect", name="public.test", port=80 + 7920, speak="http"),
            ),
            NameCase(
                "beside an address, which is reached directly",
                yes("tcp", "tcp 192.0.2.7 8000", to="192.0.2.7", port=8000),
                no("tcp", to="93.184.216.34", port=8000),
            ),
            NameCase(
                "a name does not open addresses that are not public",
                yes("url", url="http://public.test/"),
                no("url", "403 address_private", "address_private", url=f"http://{WEB}/"),
            ),
        ),
        ("93.184.216.35", "192.0.2.80"),
        (SECOND,),
    ),
    NamePolicy(
        "legacy-blocked",
        {
            "version": "0.7.0",
            "network": {"defaultPolicy": "allow", "blockedHosts": [SECOND, "93.184.216.99"]},
        },
        (
            NameCase(
                "a blocked name is told from all others",
                yes("url", '"host": "public.test"', url="http://public.test/"),
                no("url", "403 name_denied", "name_denied", url=f"http://{SECOND}/"),
                no("straight", "", "name_denied", name=SECOND, to="93.184.216.34", **SMALL),
                no("lookup", name=SECOND),
            ),
            NameCase(
                "so nothing goes directly, where no name would be told",
                yes("url", '"sni": "public.test"', url="https://public.test/"),
                no("tcp", to="93.184.216.35", port=8000),
                no("tcp", to="192.0.2.7", port=8000),
            ),
        ),
        ("93.184.216.35",),
        (SECOND,),
    ),
)
