"""Networks on one line: the grammar of flags and of `network`, and what is told of everything else."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ConfigError, MxcError, PolicyRefused
from backends.features import Feature
from backends.network.policy import (
    NO_NETWORK,
    Direction,
    NameRule,
    Peer,
    Ports,
    Protocol,
    Rule,
)
from mxc_ops import Policy, network
from mxc_ops.cli.run_flags import add_policy_flags, given_flags, name_flags, policy_from_flags
from mxc_ops.policy.network_text import destination
from tests.unit.networks import ARGUMENTS

DESTINATIONS: dict[str, Rule | NameRule] = {
    "192.0.2.7": Rule("r", "p", (Peer("192.0.2.7/32"),)),
    "192.0.2.0/24:443": Rule("r", "p", (Peer("192.0.2.0/24"),), (Ports(Protocol.ANY, 443, 443),)),
    "192.0.2.0/24:1-9/udp": Rule("r", "p", (Peer("192.0.2.0/24"),), (Ports(Protocol.UDP, 1, 9),)),
    "192.0.2.7/tcp": Rule("r", "p", (Peer("192.0.2.7/32"),), (Ports(Protocol.TCP),)),
    "0.0.0.0/0/icmp": Rule("r", "p", (Peer("0.0.0.0/0"),), (Ports(Protocol.ICMP),)),
    "2001:db8::/32": Rule("r", "p", (Peer("2001:db8::/32"),)),
    "[2001:db8::/32]": Rule("r", "p", (Peer("2001:db8::/32"),)),
    "[2001:db8::1]:53/udp": Rule("r", "p", (Peer("2001:db8::1/128"),), (Ports(Protocol.UDP, 53, 53),)),
    "[::ffff:192.0.2.7]:53": Rule("r", "p", (Peer("192.0.2.7/32"),), (Ports(Protocol.ANY, 53, 53),)),
    "Example.Test": NameRule("r", "p", "example.test"),
    "example.test:443/tcp": NameRule("r", "p", "example.test", ((443, 443),)),
    "*.example.test:1-65535": NameRule("r", "p", "*.example.test", ((1, 65535),)),
    "*": NameRule("r", "p", "*"),
}


@pytest.mark.parametrize(("text", "rule"), DESTINATIONS.items())
def test_a_destination_is_a_rule(text: str, rule: Rule | NameRule) -> None:
    assert destination(text, "r", "p") == rule


def test_a_name_that_is_denied_is_so_on_every_port() -> None:
    assert destination("a.test", "r", "p", denied=True) == NameRule("r", "p", "a.test", ((1, 65535),))
    with pytest.raises(ConfigError, match="denied on every port"):
        destination("a.test:443", "r", "p", denied=True)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ":443", "a.test:", "a.test:0", "a.test:65536", "a.test:9-1", "a.test:x", "a.test:-1"),
        *("a.test:+1", "a.test:٣", "a.test:1-", "a.test/udp", "a.test/icmp", "a.test/x", "https://a.test"),
        *("10.0.0.1/8", "10.0.0.0/8:53/icmp", "[::1", "[::1]53", "[::1]x", "2001:db8::1:x", "a b", "1.2.3"),
        *("fe80::1%eth0", "10.0.0.0/255.0.0.0", "a.*.test", "[*]:1:2", "a.test:99999999999999999999"),
    ],
)
def test_what_is_no_destination_is_told_with_its_place(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        destination(text, "r", "--allow")
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == ("invalid_value", "--allow")
    assert problem.expected or problem.fix


@given(st.text(max_size=12) | st.text(alphabet="[]:/*.-0123456789abcdeftu", max_size=16))
def test_any_text_is_a_destination_or_a_config_error(text: str) -> None:
    try:
        rule = destination(text, "r", "p")
    except ConfigError as error:
        assert str(error).isprintable()
        return
    assert rule.pointer == "p"


def test_a_network_in_one_call() -> None:
    made = network(
        allow=["a.test", "192.0.2.7:443", "*.b.test"],
        deny=["192.0.2.8", "c.test"],
        publish=["8080:80", "[::1]:8081:81/udp", "192.0.2.10:8080:80"],
        reach_host=["5432", "6379:6380/udp"],
        may_allow=["d.test", "10.0.0.0/8"],
    )
    assert [(rule.name, rule.pointer) for rule in (*made.allow, *made.deny)] == [
        ("egress.allow.0", "network.allow[1]"),
        ("egress.deny.0", "network.deny[0]"),
    ]
    assert [(rule.name, rule.pattern) for rule in (*made.names, *made.denied_names)] == [
        ("names.0", "a.test"),
        ("names.1", "*.b.test"),
        ("deniedNames.0", "c.test"),
    ]
    assert [
        (each.direction, each.protocol.value, each.host_address, each.host_port, each.sandbox_port)
        for each in made.mappings
    ] == [
        (Direction.TO_SANDBOX, "tcp", "127.0.0.1", 8080, 80),
        (Direction.TO_SANDBOX, "udp", "::1", 8081, 81),
        (Direction.TO_SANDBOX, "tcp", "192.0.2.10", 8080, 80),
        (Direction.TO_HOST, "tcp", "127.0.0.1", 5432, 5432),
        (Direction.TO_HOST, "udp", "127.0.0.1", 6379, 6380),
    ]
    assert [rule.name for rule in (*made.ceiling.allow, *made.ceiling.names)] == [
        "ceiling.egress.0",
        "ceiling.names.0",
    ]
    asked = [(each.feature, each.pointer) for each in Policy(network=made).request("true").asked]
    assert asked[0] == (Feature.EGRESS, "network.allow[1]")
    assert (Feature.INGRESS, "network.publish[2]") in asked
    assert network() == network(deny=["a.test", "192.0.2.7"]) == NO_NETWORK


MALFORMED: list[tuple[dict[str, Any], str]] = [
    ({"default": "none"}, "network.default"),
    ({"allow": "a.test"}, "network.allow"),
    ({"deny": 7}, "network.deny"),
    ({"allow": ["a.test", 7]}, "network.allow[1]"),
    ({"may_allow": ["a.test:0"]}, "network.may_allow[0]"),
    *[
        ({"publish": [text]}, "network.publish[0]")
        for text in ("80", "80:", ":80", "::1:80:80", "80:80/icmp")
    ],
    *[({"publish": [text]}, "network.publish[0]") for text in ("0.0.0.0:80:80", "x:80:80", "[::]:80:80")],
    ({"publish": ["80:1", "80:2"]}, "network.publish[1]"),
    *[({"reach_host": [text]}, "network.reach_host[0]") for text in ("", "0", "80:", "a:1:2", "1:2:3")],
    ({"reach_host": ["80", "81:80"]}, "network.reach_host[1]"),
    ({"proxy": "127.0.0.1:3128"}, "network.proxy"),
    ({"proxy": 3128}, "network.proxy"),
]


@pytest.mark.parametrize(("arguments", "place"), MALFORMED)
def test_a_malformed_argument_is_named(arguments: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        network(**arguments)
    assert [problem.path for problem in caught.value.problems] == [place]


@pytest.mark.parametrize(
    ("arguments", "code", "place"),
    [
        ({"proxy": "http://proxy.test:1"}, "proxy_not_local", "network.proxy"),
        ({"proxy": "http://me:hunter2@127.0.0.1:1"}, "proxy_credentials", "network.proxy"),
        ({"default": "allow", "allow": ["a.test"]}, "names_limit_nothing", "network.allow[0]"),
        ({"default": "allow", "deny": ["a.test"]}, "names_limit_nothing", "network.deny[0]"),
        ({"proxy": "http://127.0.0.1:1", "default": "allow"}, "conflicting_fields", "network.proxy"),
        ({"proxy": "http://127.0.0.1:1", "allow": ["10.0.0.0/8"]}, "conflicting_fields", "network.allow[0]"),
        ({"proxy": "http://127.0.0.1:1", "deny": ["a.test"]}, "conflicting_fields", "network.deny[0]"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments: dict[str, Any], code: str, place: str) -> None:
    with pytest.raises(PolicyRefused) as caught:
        network(**arguments)
    (problem,) = caught.value.problems
    assert (problem.code, problem.path) == (code, place)
    assert problem.fix
    assert "hunter2" not in str(caught.value)


# --- flags -----------------------------------------------------------------------------------------


def from_flags(*words: str) -> Policy:
    parser = ArgumentParser()
    add_policy_flags(parser)
    options = parser.parse_args(words)
    try:
        return policy_from_flags(options)
    except MxcError as error:
        raise name_flags(error, options) from error


def test_flags_say_what_arguments_say() -> None:
    assert from_flags().network == from_flags("--net", "none").network == NO_NETWORK
    assert from_flags("--net", "all", "--deny-net", "192.0.2.7").network == network(
        default="allow", deny=["192.0.2.7"]
    )
    words = (
        "--allow-net",
        "a.test",
        "--allow-net",
        "10.0.0.0/8",
        "--publish",
        "80:80",
        "--reach-host",
        "53/udp",
    )
    assert from_flags(*words).network == network(
        allow=["a.test", "10.0.0.0/8"], publish=["80:80"], reach_host=["53/udp"]
    )
    assert from_flags("--proxy", "http://127.0.0.1:1").network == network(proxy="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--allow-net", "a.test:0"), "--allow-net"),
        (("--deny-net", "https://a.test"), "--deny-net"),
        (("--publish", "0.0.0.0:80:80"), "--publish"),
        (("--reach-host", "x"), "--reach-host"),
        (("--proxy", "http://proxy.test:1"), "--proxy"),
        (("--net", "all", "--allow-net", "a.test"), "--allow-net"),
        (("--net", "all", "--deny-net", "a.test"), "--deny-net"),
        (("--net", "all", "--proxy", "http://127.0.0.1:1"), "--proxy"),
        (("--allow-net", "10.0.0.0/8", "--proxy", "http://127.0.0.1:1"), "--allow-net"),
    ],
)
def test_what_is_wrong_with_a_flag_is_told_in_flags(words: tuple[str, ...], flag: str) -> None:
    with pytest.raises(MxcError) as caught:
        from_flags(*words)
    (problem,) = caught.value.problems
    assert problem.path == flag
    assert "mxcOps" not in problem.expected
    assert not {"network(", "network.egress"} & set(problem.fix.replace("(", "( ").split())


def test_the_flags_of_a_network_are_known_to_be_given() -> None:
    parser = ArgumentParser()
    add_policy_flags(parser)
    words = ("--net", "all", "--allow-net", "a", "--deny-net", "b", "--publish", "1:1", "--reach-host", "1")
    options = parser.parse_args([*words, "--proxy", "x"])
    assert set(given_flags(options)) == {*words[::2], "--proxy"}


@given(ARGUMENTS)
def test_a_network_is_made_or_refused_with_the_place_of_the_fault(arguments: dict[str, Any]) -> None:
    try:
        made = network(**arguments)
    except (ConfigError, PolicyRefused) as error:
        assert all(problem.path.startswith("network.") for problem in error.problems)
        return
    opening = ("allow", "publish", "reach_host", "may_allow", "proxy")
    opens = arguments.get("default") == "allow" or any(arguments.get(name) for name in opening)
    assert made.is_isolated is not opens
