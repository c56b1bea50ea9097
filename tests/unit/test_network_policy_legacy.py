"""Documents of the 0.4 … 0.9-dev line: held as strictly as the newest form, or refused by name."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.base import SandboxRequest
from backends.errors import ConfigError, PolicyRefused, Problem
from backends.network.policy import (
    NO_NETWORK,
    NameRule,
    NetworkPolicy,
    Peer,
    ProxyEndpoint,
    Rule,
)
from mxc_ops import prepare
from mxc_ops.config.loader import load
from mxc_ops.config.migrate import migrate
from mxc_ops.config.request import build_request
from tests.unit.documents import LEGACY_NETWORKS, loaded, look_up, reloaded
from tests.unit.networks import without_pointers

OURS = ("bubblewrap", "lxc", "microvm", "vm")
EVERY_PORT = ((1, 65535),)


def built(containment: str = "bubblewrap", **network: Any) -> SandboxRequest:
    document = loaded(version="0.9.0-dev", containment=containment, network=network)
    return build_request(document, platform="linux")


def refused(containment: str = "bubblewrap", **network: Any) -> tuple[Problem, ...]:
    with pytest.raises(PolicyRefused) as caught:
        built(containment, **network)
    return caught.value.problems


def signs(containment: str = "bubblewrap", **network: Any) -> set[tuple[str, str]]:
    return {(problem.code, problem.path) for problem in refused(containment, **network)}


# --- host lists ------------------------------------------------------------------------------------


@pytest.mark.parametrize("containment", OURS)
@pytest.mark.parametrize("mode", [None, "capabilities", "firewall", "both"])
def test_host_lists_are_rules_and_names_whatever_the_mode(containment: str, mode: str | None) -> None:
    request = built(
        containment,
        defaultPolicy="block",
        enforcementMode=mode,
        allowedHosts=["Api.Example.com", "192.0.2.7", "::ffff:198.51.100.0/120"],
        blockedHosts=["192.0.2.0/28"],
    )
    assert request.network == NetworkPolicy(
        deny=(Rule("egress.deny.0", "/network/blockedHosts/0", (Peer("192.0.2.0/28"),)),),
        allow=(
            Rule("egress.allow.0", "/network/allowedHosts/1", (Peer("192.0.2.7/32"),)),
            Rule("egress.allow.1", "/network/allowedHosts/2", (Peer("198.51.100.0/24"),)),
        ),
        names=(NameRule("names.0", "/network/allowedHosts/0", "api.example.com", EVERY_PORT),),
    )
    assert request.warnings == ()


def test_under_a_default_of_allow_only_what_is_blocked_counts() -> None:
    request = built(defaultPolicy="allow", allowedHosts=["192.0.2.7", "a.test"], blockedHosts=["10.1.2.3/8"])
    assert request.network == NetworkPolicy(
        egress_allowed=True, deny=(Rule("egress.deny.0", "/network/blockedHosts/0", (Peer("10.0.0.0/8"),)),)
    )


def test_a_blocked_name_wins_over_an_allowed_one() -> None:
    request = built(allowedHosts=["a.test", "b.test"], blockedHosts=["b.test"])
    assert [rule.pattern for rule in request.network.names] == ["a.test", "b.test"]
    assert request.network.denied_names == (
        NameRule("deniedNames.0", "/network/blockedHosts/0", "b.test", EVERY_PORT),
    )


def test_a_blocked_name_under_a_default_of_allow_closes_direct_traffic_and_says_so() -> None:
    request = built(
        defaultPolicy="allow", allowedHosts=["192.0.2.7"], blockedHosts=["evil.test", "192.0.2.0/28"]
    )
    assert request.network == NetworkPolicy(
        deny=(Rule("egress.deny.0", "/network/blockedHosts/1", (Peer("192.0.2.0/28"),)),),
        names=(NameRule("names.0", "/network/defaultPolicy", "*", EVERY_PORT),),
        denied_names=(NameRule("deniedNames.0", "/network/blockedHosts/0", "evil.test", EVERY_PORT),),
    )
    [closed] = request.warnings
    assert closed.startswith("/network/blockedHosts/0: ") and "direct traffic is closed" in closed


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"defaultPolicy": "block", "blockedHosts": ["192.0.2.1", "evil.test"]},
        {"enforcementMode": "firewall", "allowLocalNetwork": False, "allowedHosts": []},
    ],
)
def test_what_opens_nothing_is_no_network(network: dict[str, Any]) -> None:
    request = built(**network)
    assert (request.network, request.warnings) == (NO_NETWORK, ())


def test_a_blocked_name_among_allowed_addresses_cannot_be_held() -> None:
    (problem,) = refused(allowedHosts=["a.test", "10.0.0.0/8"], blockedHosts=["192.0.2.1", "db.test"])
    assert (problem.code, problem.path) == ("blocked_name_among_addresses", "/network/blockedHosts/1")
    assert "/network/allowedHosts/1" in problem.message


NO_HOSTS = (
    *("", " ", "https://a.test", "a.test:443", "a.test/x", "10.0.0.0/255.0.0.0", "fe80::1%eth0", "1.2.3"),
    *("user@a.test", "ä.test", "[::1]", "*.a.test", "*", "a b", "-a"),
)


@pytest.mark.parametrize("text", NO_HOSTS)
@pytest.mark.parametrize("field", ["allowedHosts", "blockedHosts"])
@pytest.mark.parametrize("default", ["allow", "block"])
def test_an_entry_that_is_no_host_is_refused(default: str, field: str, text: str) -> None:
    lists: dict[str, Any] = {field: ["192.0.2.1", text]}
    (problem,) = refused(defaultPolicy=default, **lists)
    assert (problem.code, problem.path) == ("invalid_host", f"/network/{field}/1")
    if "*" in text:
        named = "names" if field == "allowedHosts" else "deniedNames"
        assert f'"mxcOps": {{"network": {{"{named}": ' in problem.fix


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("https://A.test/x", "a.test"),
        ("a.test:443", "a.test"),
        ("https://me:hunter2@a.test:1", "a.test"),
        ("me:hunter2@a.test", "a.test"),
        ("ä.test", "xn--4ca.test"),
    ],
)
def test_what_was_probably_meant_is_the_fix_and_credentials_are_not_shown(text: str, meant: str) -> None:
    (problem,) = refused(allowedHosts=[text])
    assert problem.fix == f'write "{meant}"'
    assert "hunter2" not in repr(problem.as_dict())


def test_host_bits_never_widen_what_is_allowed() -> None:
    (problem,) = refused(allowedHosts=["10.0.0.5/8"])
    assert (problem.code, problem.path) == ("invalid_host", "/network/allowedHosts/0")
    assert problem.fix == "write 10.0.0.0/8, or 10.0.0.5 for the one address"


# --- inbound ---------------------------------------------------------------------------------------


def test_local_network_opens_the_ports_that_are_mapped_and_nothing_else() -> None:
    port = {"direction": "toSandbox", "hostPort": 8080, "sandboxPort": 80}
    document = loaded(
        version="0.7.0-alpha",
        containment="bubblewrap",
        network={"allowLocalNetwork": True},
        mxcOps={"portMappings": [port, {**port, "hostAddress": "192.0.2.1"}]},
    )
    request = build_request(document)
    assert [mapping.pointer for mapping in request.network.mappings] == [
        "/mxcOps/portMappings/0",
        "/mxcOps/portMappings/1",
    ]
    again = build_request(reloaded(migrate(document, "1.1.0-alpha").body))
    assert again.network == request.network


def test_local_network_without_a_port_is_refused_with_both_ways_out() -> None:
    with pytest.raises(PolicyRefused) as caught:
        prepare(built(defaultPolicy="allow", allowLocalNetwork=True))
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("allow_without_mapping", "/network/allowLocalNetwork")
    assert "allowLocalNetwork to false" in problem.fix and "portMappings" in problem.fix


def test_a_port_needs_local_network() -> None:
    port = {"direction": "toHost", "hostPort": 1, "sandboxPort": 1}
    with pytest.raises(PolicyRefused) as caught:
        build_request(loaded(version="0.7.0-alpha", mxcOps={"portMappings": [port]}), platform="linux")
    assert caught.value.problems[0].code == "mapping_without_allow"
    assert '"allowLocalNetwork": true' in caught.value.fix


# --- proxy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("containment", OURS)
@pytest.mark.parametrize(
    ("proxy", "endpoint"),
    [
        ({"localhost": 3128}, ("/network/proxy/localhost", "http", "127.0.0.1", 3128)),
        ({"url": "https://LOCALHOST:1/"}, ("/network/proxy/url", "https", "127.0.0.1", 1)),
        ({"url": "http://[::1]:8080"}, ("/network/proxy/url", "http", "::1", 8080)),
    ],
)
def test_a_proxy_on_the_loopback_is_the_only_way_out(
    containment: str, proxy: dict[str, Any], endpoint: tuple[str, str, str, int]
) -> None:
    policy = built(containment, defaultPolicy="block", proxy=proxy).network
    assert policy == NetworkPolicy(proxy=ProxyEndpoint(*endpoint))


@pytest.mark.parametrize(
    ("proxy", "code", "place"),
    [
        ({"builtinTestServer": True}, "testing_only_proxy", "builtinTestServer"),
        ({"url": "http://proxy.test:3128"}, "proxy_not_local", "url"),
        ({"url": "http://127.0.0.2:3128"}, "proxy_not_local", "url"),
        ({"url": "http://127.0.0.1:80@proxy.test:3128"}, "proxy_credentials", "url"),
        ({"url": "http://hunter2@127.0.0.1:3128"}, "proxy_credentials", "url"),
    ],
)
def test_a_proxy_that_no_sandbox_can_have_is_refused(proxy: dict[str, Any], code: str, place: str) -> None:
    (problem,) = refused(proxy=proxy)
    assert (problem.code, problem.path) == (code, f"/network/proxy/{place}")
    assert problem.fix
    assert "hunter2" not in repr(problem.as_dict())


def test_what_stands_beside_a_proxy_is_refused_each_for_itself() -> None:
    assert signs(
        defaultPolicy="allow",
        enforcementMode="firewall",
        allowedHosts=["a.test"],
        blockedHosts=["192.0.2.1"],
        proxy={"localhost": 1},
    ) == {
        ("conflicting_fields", f"/network/{field}")
        for field in ("defaultPolicy", "enforcementMode", "allowedHosts", "blockedHosts")
    }


@pytest.mark.parametrize("mode", ["firewall", "both"])
def test_bubblewrap_alone_has_no_proxy_beside_a_packet_filter(mode: str) -> None:
    assert signs(enforcementMode=mode, proxy={"localhost": 1}) == {
        ("conflicting_fields", "/network/enforcementMode")
    }
    assert built("lxc", enforcementMode=mode, proxy={"localhost": 1}).network.proxy is not None


# --- properties ------------------------------------------------------------------------------------

ADDRESSES = ("10.1.2.3", "10.200.0.1", "192.0.2.7", "203.0.113.9", "127.0.0.1", "2001:db8::1", "2001:db9::1")
NAMES = ("api.example.com", "localhost", "other.example")


def covers(entries: list[str] | None, target: str) -> bool:
    """Whether a list of upstream's names or covers `target`, a name or an address; host bits do not count."""
    for entry in entries or ():
        try:
            if ip_address(target) in ip_network(entry, strict=False):
                return True
        except ValueError:
            if entry.lower() == target:
                return True
    return False


def legacy_permits(network: dict[str, Any], target: str) -> bool:
    """The meaning of the two lists (policy-semantics.md §2), for one target as it is called."""
    if covers(network.get("blockedHosts"), target):
        return False
    return network.get("defaultPolicy") == "allow" or covers(network.get("allowedHosts"), target)


def rule_matches(rule: Rule, address: str) -> bool:
    return not rule.to or any(ip_address(address) in ip_network(peer.cidr) for peer in rule.to)


def reaches(policy: NetworkPolicy, address: str) -> bool:
    """Packets, straight: policy-semantics.md §3.1."""
    if any(rule_matches(rule, address) for rule in policy.deny):
        return False
    return policy.egress_allowed or any(rule_matches(rule, address) for rule in policy.allow)


def connects(policy: NetworkPolicy, name: str) -> bool:
    """Through the filtering proxy."""

    def named(rules: tuple[NameRule, ...]) -> bool:
        return any(rule.pattern in (name, "*") for rule in rules)

    return named(policy.names) and not named(policy.denied_names)


@settings(max_examples=400)
@given(LEGACY_NETWORKS, st.sampled_from(OURS))
def test_nothing_is_reached_that_the_document_denies(network: dict[str, Any], containment: str) -> None:
    try:
        request = built(containment, **network)
    except PolicyRefused as error:
        for problem in error.problems:
            assert problem.fix or problem.expected
            look_up(network, problem.path.removeprefix("/network"))
        return
    policy = request.network
    for address in ADDRESSES:
        assert not reaches(policy, address) or legacy_permits(network, address)
    for name in NAMES:
        assert not connects(policy, name) or legacy_permits(network, name)
    if policy.proxy is not None:
        assert policy == NetworkPolicy(proxy=policy.proxy)
        assert network["proxy"]
    assert policy.mappings == ()


@settings(max_examples=200)
@given(LEGACY_NETWORKS, st.sampled_from(OURS))
def test_everything_is_reached_that_the_document_allows(network: dict[str, Any], containment: str) -> None:
    """Or the user is told: direct traffic beside a blocked name, a proxy, a refusal."""
    network.pop("proxy", None)
    try:
        request = built(containment, **network)
    except PolicyRefused:
        return
    policy = request.network
    for address in ADDRESSES:
        assert reaches(policy, address) or not legacy_permits(network, address) or request.warnings
    for name in NAMES:
        assert connects(policy, name) or policy.egress_allowed or not legacy_permits(network, name)


@settings(max_examples=200)
@given(LEGACY_NETWORKS, st.sampled_from(OURS))
def test_a_migrated_document_has_the_same_network(network: dict[str, Any], containment: str) -> None:
    document = loaded(version="0.9.0-dev", containment=containment, network=network)
    try:
        before = build_request(document, platform="linux").network
    except PolicyRefused:
        return
    after = build_request(reloaded(migrate(document, "1.1.0-alpha").body), platform="linux").network
    assert without_pointers(after) == without_pointers(before)


# --- upstream's own documents ----------------------------------------------------------------------


def test_upstreams_samples_become_networks_or_are_refused_by_name(shared_dir: Path) -> None:
    samples = shared_dir / "mxc-samples"
    seen: list[str] = []
    for file in sorted(
        [*samples.glob("examples/*.json"), *samples.glob("contract-fixtures/**/valid/*.json")]
    ):
        try:
            document = load(file.read_bytes())
        except ConfigError:
            continue
        if document.body.get("phase") is not None:
            continue
        for containment in OURS:
            body = {**document.body, "containment": containment}
            try:
                moved = reloaded(body)
            except ConfigError:
                continue
            try:
                network = build_request(moved, platform="linux").network
            except PolicyRefused as error:
                assert all(problem.path.startswith("/") and problem.fix for problem in error.problems), file
            else:
                seen.append("isolated" if network.is_isolated else "open")
    assert {"isolated", "open"} <= set(seen)
