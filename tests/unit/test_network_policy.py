"""From a document in the directional form to its network policy, and everything that is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from backends.errors import ConfigError, PolicyRefused, Problem
from backends.frozen import replace
from backends.network.policy import (
    NO_NETWORK,
    Ceiling,
    Direction,
    Inspection,
    NameRule,
    NetworkPolicy,
    Peer,
    PortMapping,
    Ports,
    Protocol,
    ProxyEndpoint,
    Rule,
)
from mxc_ops import Policy, prepare
from mxc_ops.config.document import Document, RequestKind
from mxc_ops.config.loader import load
from mxc_ops.config.request import build_request
from mxc_ops.policy.network_text import destination
from tests.unit.documents import loaded, look_up
from tests.unit.networks import NETWORKS, without_pointers

LOOPBACK_OPEN = {"ingress": {"hostLoopback": "allow"}}
TO_SANDBOX = {"direction": "toSandbox", "hostPort": 8080, "sandboxPort": 80}
TO_HOST = {"direction": "toHost", "hostPort": 5432, "sandboxPort": 5432}


def policy_of(**fields: Any) -> NetworkPolicy:
    return build_request(loaded(version="1.0.0", **fields), platform="linux").network


def refused(**fields: Any) -> tuple[Problem, ...]:
    with pytest.raises(PolicyRefused) as caught:
        build_request(loaded(version="1.0.0", **fields), platform="linux")
    return caught.value.problems


def signs(**fields: Any) -> set[tuple[str, str]]:
    return {(problem.code, problem.path) for problem in refused(**fields)}


# --- rules -----------------------------------------------------------------------------------------


NOTHING: list[dict[str, Any]] = [
    {},
    {"network": {}},
    {"network": {"egress": {"default": "deny", "deny": [{}]}, "ingress": {"default": "deny"}}},
    {"mxcOps": {"network": {"names": [], "deniedNames": [{"name": "a.test"}], "ceiling": {}}}},
    {"mxcOps": {"portMappings": []}},
]


@pytest.mark.parametrize("fields", NOTHING)
def test_what_opens_nothing_is_no_network(fields: dict[str, Any]) -> None:
    assert policy_of(**fields) == NO_NETWORK


def test_each_rule_has_its_name_its_place_and_its_addresses_in_one_spelling() -> None:
    peers = [{"cidr": "192.0.2.7"}, {"cidr": "2001:DB8::/32", "except": ["2001:db8:0:1::/64"]}]
    ports = [{"port": 53}, {"protocol": "tcp", "port": 1, "endPort": 9}, {"protocol": "icmp"}, {}]
    policy = policy_of(
        network={"egress": {"default": "allow", "allow": [{}, {"to": peers, "ports": ports}], "deny": [{}]}}
    )
    assert policy == NetworkPolicy(
        egress_allowed=True,
        deny=(Rule("egress.deny.0", "/network/egress/deny/0"),),
        allow=(
            Rule("egress.allow.0", "/network/egress/allow/0"),
            Rule(
                "egress.allow.1",
                "/network/egress/allow/1",
                (Peer("192.0.2.7/32"), Peer("2001:db8::/32", ("2001:db8:0:1::/64",))),
                (
                    Ports(Protocol.ANY, 53, 53),
                    Ports(Protocol.TCP, 1, 9),
                    Ports(Protocol.ICMP),
                    Ports(),
                ),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("cidr", "excepted", "peer"),
    [
        ("::ffff:192.0.2.7", [], Peer("192.0.2.7/32")),
        ("::ffff:0:0/96", ["::ffff:10.0.0.0/104"], Peer("0.0.0.0/0", ("10.0.0.0/8",))),
        ("::ffff:10.0.0.0/104", ["::ffff:10.1.0.0/112"], Peer("10.0.0.0/8", ("10.1.0.0/16",))),
        ("::/0", [], Peer("::/0")),
        ("::fffe:0:0/95", ["::ffff:10.0.0.0/104"], Peer("::fffe:0:0/95", ("::ffff:10.0.0.0/104",))),
        ("::/96", [], Peer("::/96")),
    ],
)
def test_ipv4_in_ipv6_is_ipv4_where_it_is_nothing_else(cidr: str, excepted: list[str], peer: Peer) -> None:
    policy = policy_of(network={"egress": {"allow": [{"to": [{"cidr": cidr, "except": excepted}]}]}})
    (found,) = policy.allow[0].to
    assert found == replace(peer, excepted=tuple(str(_network(text)) for text in peer.excepted))


def _network(text: str) -> object:
    from ipaddress import ip_network

    return ip_network(text)


# --- names -----------------------------------------------------------------------------------------


def test_names_and_what_may_be_opened_later() -> None:
    policy = policy_of(
        mxcOps={
            "network": {
                "names": [
                    {"name": "Example.TEST."},
                    {
                        "name": "*.example.test",
                        "ports": [80, {"port": 8000, "endPort": 8010}],
                        "methods": ["GET"],
                        "addresses": ["::ffff:10.0.0.0/104"],
                        "inspect": "http",
                    },
                ],
                "deniedNames": [{"name": "bad.test"}, {"name": "*.bad.test"}],
                "ceiling": {"egress": [{"to": [{"cidr": "192.0.2.1"}]}], "names": [{"name": "*"}]},
            }
        }
    )
    at = "/mxcOps/network"
    assert policy == NetworkPolicy(
        names=(
            NameRule("names.0", f"{at}/names/0", "example.test"),
            NameRule(
                "names.1",
                f"{at}/names/1",
                "*.example.test",
                ((80, 80), (8000, 8010)),
                ("GET",),
                ("10.0.0.0/8",),
                Inspection.HTTP,
            ),
        ),
        denied_names=(
            NameRule("deniedNames.0", f"{at}/deniedNames/0", "bad.test", ((1, 65535),)),
            NameRule("deniedNames.1", f"{at}/deniedNames/1", "*.bad.test", ((1, 65535),)),
        ),
        ceiling=Ceiling(
            (Rule("ceiling.egress.0", f"{at}/ceiling/egress/0", (Peer("192.0.2.1/32"),)),),
            (NameRule("ceiling.names.0", f"{at}/ceiling/names/0", "*"),),
        ),
    )


def test_names_beside_an_open_default_limit_nothing() -> None:
    for field in ("names", "deniedNames"):
        (problem,) = refused(
            network={"egress": {"default": "allow"}}, mxcOps={"network": {field: [{"name": "a.test"}]}}
        )
        assert (problem.code, problem.path) == ("names_limit_nothing", f"/mxcOps/network/{field}/0")
        assert 'network.egress.default to "deny"' in problem.fix


def test_a_denied_name_beside_allowed_addresses_is_warned_of() -> None:
    egress = {"allow": [{"to": [{"cidr": "192.0.2.0/24"}]}]}
    names = {"names": [{"name": "*"}], "deniedNames": [{"name": "a.test"}]}
    built = build_request(loaded(version="1.0.0", network={"egress": egress}, mxcOps={"network": names}))
    (warning,) = built.warnings
    assert warning.startswith("/mxcOps/network/deniedNames/0: ")
    assert "/network/egress/allow/0" in warning


# --- proxy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://127.0.0.1:3128", ("http", "127.0.0.1", 3128)),
        ("HTTPS://LocalHost:1", ("https", "127.0.0.1", 1)),
        ("http://[::1]:8080/", ("http", "::1", 8080)),
        ("http://@127.0.0.1:8080", ("http", "127.0.0.1", 8080)),
        ("http://:@127.0.0.1:8080", ("http", "127.0.0.1", 8080)),
    ],
)
def test_a_proxy_on_the_loopback_is_the_only_way_out(url: str, endpoint: tuple[str, str, int]) -> None:
    policy = policy_of(runtimeConfig={"networkProxy": url})
    assert policy == NetworkPolicy(proxy=ProxyEndpoint("/runtimeConfig/networkProxy", *endpoint))


@pytest.mark.parametrize("user", ["me", "me:", ":hunter2", "me:hunter2", "a@b", "hunter2@:"])
def test_credentials_of_a_proxy_are_refused_and_nowhere_shown(user: str) -> None:
    (problem,) = refused(runtimeConfig={"networkProxy": f"http://{user}@127.0.0.1:3128"})
    assert (problem.code, problem.path) == ("proxy_credentials", "/runtimeConfig/networkProxy")
    assert "hunter2" not in repr(problem.as_dict())
    assert "127.0.0.1:3128" in problem.fix


def test_nothing_stands_beside_a_proxy() -> None:
    ours: dict[str, Any] = {
        "names": [{"name": "a.test"}],
        "deniedNames": [{"name": "b.test"}],
        "ceiling": {"egress": [{}], "names": [{"name": "c.test"}]},
    }
    proxy = {"networkProxy": "http://127.0.0.1:1"}
    assert signs(runtimeConfig=proxy, mxcOps={"network": ours}) == {
        ("conflicting_fields", f"/mxcOps/network/{where}")
        for where in ("names/0", "deniedNames/0", "ceiling/egress/0", "ceiling/names/0")
    }


def test_a_proxy_that_no_loader_has_seen_is_checked_all_the_same() -> None:
    for url, code in (("http://proxy.test:1", "proxy_not_local"), ("ftp://127.0.0.1:1", "invalid_value")):
        body = {"process": {"commandLine": "true"}, "runtimeConfig": {"networkProxy": url}}
        with pytest.raises(PolicyRefused) as caught:
            build_request(Document("1.0.0", "1.0.0", RequestKind.ONE_SHOT, body), platform="linux")
        assert caught.value.problems[0].code == code


# --- mapped ports ----------------------------------------------------------------------------------


def test_ports_are_mapped_where_ingress_allows_it() -> None:
    policy = policy_of(
        network={"ingress": {"default": "allow", "hostLoopback": "allow"}},
        mxcOps={
            "portMappings": [
                TO_SANDBOX,
                {**TO_SANDBOX, "hostAddress": "::ffff:192.0.2.10", "protocol": "udp"},
                TO_HOST,
            ]
        },
    )
    at = "/mxcOps/portMappings"
    inward, tcp = Direction.TO_SANDBOX, Protocol.TCP
    assert policy.mappings == (
        PortMapping("portMappings.0", f"{at}/0", inward, tcp, "127.0.0.1", 8080, 80),
        PortMapping("portMappings.1", f"{at}/1", inward, Protocol.UDP, "192.0.2.10", 8080, 80),
        PortMapping("portMappings.2", f"{at}/2", Direction.TO_HOST, tcp, "127.0.0.1", 5432, 5432),
    )


@pytest.mark.parametrize(
    ("mapping", "ingress", "field"),
    [
        (TO_SANDBOX, {"default": "allow"}, "hostLoopback"),
        ({**TO_SANDBOX, "hostAddress": "127.9.9.9"}, {}, "hostLoopback"),
        ({**TO_SANDBOX, "hostAddress": "::1"}, {}, "hostLoopback"),
        (TO_HOST, {"default": "allow", "hostLoopback": "deny"}, "hostLoopback"),
        ({**TO_SANDBOX, "hostAddress": "192.0.2.10"}, {"hostLoopback": "allow"}, "default"),
    ],
)
def test_a_mapped_port_that_ingress_does_not_allow_is_refused(
    mapping: dict[str, Any], ingress: dict[str, Any], field: str
) -> None:
    (problem,) = refused(network={"ingress": ingress}, mxcOps={"portMappings": [mapping]})
    assert (problem.code, problem.path) == ("mapping_without_allow", "/mxcOps/portMappings/0")
    assert f'"network": {{"ingress": {{"{field}": "allow"}}}}' in problem.fix


def test_everything_that_contradicts_itself_is_told_at_once() -> None:
    assert signs(
        network={"egress": {"default": "allow"}},
        mxcOps={"network": {"names": [{"name": "a.test"}]}, "portMappings": [TO_SANDBOX]},
    ) == {
        ("names_limit_nothing", "/mxcOps/network/names/0"),
        ("mapping_without_allow", "/mxcOps/portMappings/0"),
    }


@pytest.mark.parametrize("containment", ["bubblewrap", "lxc", "vm", "microvm", "hyperlight"])
def test_a_one_shot_opens_no_way_without_a_port(containment: str) -> None:
    request = build_request(
        loaded(version="1.1.0-alpha", containment=containment, network=LOOPBACK_OPEN), platform="linux"
    )
    with pytest.raises(PolicyRefused) as caught:
        prepare(request)
    assert [(problem.code, problem.path) for problem in caught.value.problems] == [
        ("allow_without_mapping", "/network/ingress/hostLoopback")
    ]


@pytest.mark.parametrize("containment", ["seatbelt", "processcontainer", "wslc"])
def test_the_network_of_a_containment_that_is_not_ours_is_not_judged(containment: str) -> None:
    network = {"ingress": {"default": "allow", "hostLoopback": "allow"}}
    document = loaded(version="1.1.0-alpha", containment=containment, network=network)
    assert build_request(document, platform="linux").network == NO_NETWORK


# --- from Python, and back -------------------------------------------------------------------------


@given(NETWORKS)
def test_a_network_survives_the_way_through_a_document(network: NetworkPolicy) -> None:
    sections = ("network", "runtimeConfig", "mxcOps")
    policy = Policy(network=network)
    document = load(json.dumps(policy.as_config("true")).encode())
    built = build_request(document)
    assert without_pointers(built.network) == without_pointers(network)
    for entry in (*built.network.allow, *built.network.names, *built.network.mappings):
        look_up(document.body, entry.pointer)
    back = Policy.from_config(policy.as_config("true")).as_config("true")
    assert {name: back.get(name) for name in sections} == {name: document.body.get(name) for name in sections}


def test_a_document_keeps_what_no_text_can_say_on_its_way_through_a_policy() -> None:
    body: dict[str, Any] = {
        "version": "1.1.0-alpha",
        "containment": "bubblewrap",
        "process": {"commandLine": "true", "env": ["A=1"]},
        "network": {
            "egress": {"allow": [{"to": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}, {}]},
            "ingress": {"hostLoopback": "allow"},
        },
        "mxcOps": {
            "network": {
                "names": [
                    {
                        "name": "a.test",
                        "ports": [80],
                        "methods": ["GET"],
                        "addresses": ["10.0.0.0/8"],
                        "inspect": "http",
                    }
                ],
                "ceiling": {"names": [{"name": "*"}]},
            },
            "portMappings": [TO_HOST],
        },
    }
    assert Policy.from_config(body).as_config("true") == body


def test_a_session_may_open_ports_later_where_no_port_is_named() -> None:
    body = {"version": "1.0.0", "process": {"commandLine": "true"}, "network": LOOPBACK_OPEN}
    policy = Policy.from_config(body)
    assert (policy.host_loopback, policy.network) == (True, NO_NETWORK)
    assert policy.as_config("true")["network"] == LOOPBACK_OPEN


def test_a_policy_does_not_take_a_network_that_contradicts_itself() -> None:
    name = destination("a.test", "names.0", "names[0]")
    assert isinstance(name, NameRule)
    with pytest.raises(PolicyRefused, match="names limit nothing"):
        Policy(network=NetworkPolicy(egress_allowed=True, names=(name,)))
    with pytest.raises(ConfigError, match="network"):
        Policy(network=name)  # type: ignore[arg-type]
