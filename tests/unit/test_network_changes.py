"""What an owner may change of a kept sandbox's network: always less, and more up to its ceiling."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ConfigError, PolicyRefused
from backends.frozen import replace
from backends.network.policy import Ceiling, NetworkPolicy, Peer, Rule
from mxc_ops.config.canonical import canonicalise
from mxc_ops.config.loader import load
from mxc_ops.policy.ceiling import opened_within
from mxc_ops.policy.network import network_policy, read_policy
from mxc_ops.policy.network_text import destination
from mxc_ops.session.network_changes import ChangedDocuments, NetworkChanges, changed_documents
from tests.unit.network_reference import Asked, decide, edges, policies, port_edges


def document(**fields: Any) -> dict[str, Any]:
    body = {
        "version": "1.1.0-alpha",
        "containment": "bubblewrap",
        "process": {"commandLine": "true"},
        **fields,
    }
    return canonicalise(load(json.dumps(body).encode()))


def provisioned(*, allow: Sequence[str] = (), names: Sequence[str] = (), **ceiling: Any) -> dict[str, Any]:
    ours: dict[str, Any] = {"names": [{"name": name} for name in names], "ceiling": ceiling}
    egress = {"allow": [{"to": [{"cidr": cidr}]} for cidr in allow]} if allow else {}
    return document(network={"egress": egress}, mxcOps={"network": {k: v for k, v in ours.items() if v}})


def changed(before: dict[str, Any], **texts: Any) -> ChangedDocuments:
    return changed_documents(before, NetworkChanges(**{name: tuple(value) for name, value in texts.items()}))


def refusal(before: dict[str, Any], **texts: Any) -> tuple[str, str]:
    with pytest.raises(PolicyRefused) as caught:
        changed(before, **texts)
    [problem] = caught.value.problems
    return problem.code, problem.path


def test_without_a_ceiling_nothing_is_opened() -> None:
    assert refusal(provisioned(allow=["192.0.2.1"]), allow=["192.0.2.2"]) == ("beyond_ceiling", "--allow")
    assert refusal(provisioned(names=["a.test"]), allow=["b.test"]) == ("beyond_ceiling", "--allow")


def test_what_is_denied_and_revoked_is_closed_before_anything_is_opened() -> None:
    before = provisioned(
        allow=["192.0.2.1/32", "192.0.2.2/32"], egress=[{"to": [{"cidr": "198.51.100.0/24"}]}]
    )
    both = changed(before, allow=["198.51.100.7:443"], deny=["192.0.2.1"], revoke=["192.0.2.2"])
    tightened, whole = read_policy(both.tightened), read_policy(both.whole)
    assert [rule.to[0].cidr for rule in tightened.allow] == ["192.0.2.1/32"]
    assert [rule.to[0].cidr for rule in tightened.deny] == ["192.0.2.1/32"]
    assert [rule.to[0].cidr for rule in whole.allow] == ["192.0.2.1/32", "198.51.100.7/32"]
    assert whole.ceiling == tightened.ceiling == read_policy(before).ceiling


def test_a_name_is_opened_as_the_ceiling_has_it() -> None:
    entry = {"name": "*.example.test", "ports": [443], "addresses": ["10.0.0.0/8"], "inspect": "tls"}
    before = document(mxcOps={"network": {"ceiling": {"names": [entry]}}})
    whole = changed(before, allow=["db.example.test:443"]).whole
    [name] = read_policy(whole).names
    assert (name.pattern, name.ports, name.addresses) == ("db.example.test", ((443, 443),), ("10.0.0.0/8",))
    assert name.inspection is not None and name.inspection.value == "tls"


@pytest.mark.parametrize(
    "text", ["example.test:443", "a.example.test:80", "a.example.test:443-444", "*", "*.test:443"]
)
def test_a_name_beyond_the_ceiling_is_refused(text: str) -> None:
    before = document(
        mxcOps={"network": {"ceiling": {"names": [{"name": "*.example.test", "ports": [443]}]}}}
    )
    assert refusal(before, allow=[text]) == ("beyond_ceiling", "--allow")


def test_of_very_many_rules_one_is_revoked_and_the_others_stay_as_they_were_written() -> None:
    before = provisioned(allow=[f"192.0.2.{last}/32" for last in range(100)])
    after = changed(before, revoke=["192.0.2.50"]).whole
    assert len(after["network"]["egress"]["allow"]) == 99
    assert {"to": [{"cidr": "192.0.2.50/32"}]} not in after["network"]["egress"]["allow"]


def test_what_was_never_allowed_cannot_be_revoked() -> None:
    before = provisioned(allow=["192.0.2.0/24"])
    assert refusal(before, revoke=["192.0.2.7"]) == ("not_allowed_before", "--revoke")


@pytest.mark.parametrize("flag", ["allow", "deny", "revoke"])
def test_what_is_no_destination_is_told_with_its_flag(flag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(provisioned(allow=["192.0.2.0/24"]), **{flag: ["192.0.2.0/33"]})
    assert caught.value.path == f"--{flag}"


def test_other_parts_of_the_document_stay() -> None:
    before = document(
        network={
            "egress": {"allow": [{"to": [{"cidr": "192.0.2.0/24"}]}]},
            "ingress": {"hostLoopback": "allow"},
        },
        mxcOps={
            "limits": {"pids": 9},
            "portMappings": [{"direction": "toHost", "hostPort": 5432, "sandboxPort": 5432}],
        },
    )
    after = changed(before, deny=["192.0.2.7"]).whole
    assert after["mxcOps"]["limits"] == {"pids": 9}
    assert read_policy(after).mappings == read_policy(before).mappings
    assert after["network"]["ingress"] == {"hostLoopback": "allow"}
    assert network_policy(after).deny


@given(policy=policies(), ceiling=policies(), seed=st.integers(0, 1 << 32))
def test_what_a_ceiling_lets_be_opened_it_has_itself(
    policy: NetworkPolicy, ceiling: NetworkPolicy, seed: int
) -> None:
    """Every packet that a rule lets through which may be opened, one of the ceiling's rules lets through."""
    limit = Ceiling(allow=ceiling.allow)
    opened = tuple(rule for rule in policy.allow if opened_within(rule, limit) is not None)
    narrow, wide = NetworkPolicy(allow=opened), NetworkPolicy(allow=ceiling.allow)
    both = replace(policy, allow=(*policy.allow, *ceiling.allow), deny=())
    for address in edges(both):
        for port in port_edges(both):
            for protocol in (1, 6, 17, 58, 132):
                asked = Asked(address, protocol, port)
                if decide(narrow, asked)[1]:
                    assert decide(wide, asked)[1], asked


def test_what_is_ipv4_in_other_words_is_not_within_a_ceiling_of_ipv6() -> None:
    """The rules take it for IPv4: a ceiling of all of IPv6 would have let all of IPv4 be opened."""
    mapped = Rule("r", "/r", (Peer("::ffff:10.0.0.0/120"),))
    assert opened_within(mapped, Ceiling(allow=(Rule("c", "/c", (Peer("::/0"),)),))) is None
    assert opened_within(mapped, Ceiling(allow=(Rule("c", "/c", (Peer("10.0.0.0/8"),)),))) == mapped
    holed = Rule("c", "/c", (Peer("0.0.0.0/0", ("::ffff:10.0.0.0/121",)),))
    assert opened_within(mapped, Ceiling(allow=(holed,))) is None


def test_a_whole_rule_lies_within_itself() -> None:
    rule = destination("192.0.2.0/24:80-90/tcp", "r", "/r")
    assert isinstance(rule, Rule)
    assert opened_within(rule, Ceiling(allow=(rule,))) == rule
