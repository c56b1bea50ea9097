"""What the proxy is told, written down and read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.egress.rules import Rules
from backends.egress.settings import (
    EgressSettings,
    Listener,
    ListenerKind,
    Target,
    decode,
    decode_rules,
    encode,
    encode_replace,
)
from backends.frozen import replace
from backends.network.policy import Inspection, NameRule, Peer, Ports, Protocol, Rule

TEXT = st.text(max_size=10)
CIDRS = st.sampled_from(["192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0"])
PORTS = st.integers(0, 65_535)
NAME_RULES = st.builds(
    *(
        NameRule,
        TEXT,
        TEXT,
        st.sampled_from(["*", "*.a.test", "A.test"]),
        st.lists(st.tuples(PORTS, PORTS), max_size=2).map(tuple),
    ),
    *(st.lists(TEXT, max_size=2).map(tuple), st.lists(CIDRS, max_size=2).map(tuple)),
    st.none() | st.sampled_from(Inspection),
)
ADDRESS_RULES = st.builds(
    *(Rule, TEXT, TEXT),
    st.lists(st.builds(Peer, CIDRS, st.lists(CIDRS, max_size=1).map(tuple)), max_size=2).map(tuple),
    st.lists(
        st.builds(Ports, st.sampled_from(Protocol), st.none() | PORTS, st.none() | PORTS), max_size=2
    ).map(tuple),
)
TARGETS = st.builds(Target, st.sampled_from(["127.0.0.1", "::1"]), PORTS, st.booleans(), TEXT)
LISTENERS = st.builds(
    Listener, st.sampled_from(["proxy", "redirected", "dns-udp", "dns-tcp"]).map(ListenerKind), PORTS
) | st.builds(Listener, st.sampled_from(["forward-tcp", "forward-udp"]).map(ListenerKind), PORTS, TARGETS)
RULES = st.builds(
    Rules,
    *(st.lists(NAME_RULES, max_size=2).map(tuple), st.lists(NAME_RULES, max_size=2).map(tuple)),
    st.lists(ADDRESS_RULES, max_size=2).map(tuple),
)


def settings_of(
    rules: Rules, listeners: list[Listener], events: int | None, user: tuple[int, int] | None
) -> EgressSettings:
    told = (rules.names, rules.denied_names, rules.deny, tuple(listeners), events)
    return EgressSettings(*told, control=4, sockets=5, user=user, nameservers=("192.0.2.1",))


SETTINGS = st.builds(
    *(settings_of, RULES, st.lists(LISTENERS, max_size=3), st.none() | PORTS),
    st.none() | st.tuples(PORTS, PORTS),
)
PLAIN = EgressSettings((), (), (), (), None, 3, None, None)


@given(SETTINGS)
def test_settings_are_read_as_they_were_written(settings: EgressSettings) -> None:
    assert decode(encode(settings)) == settings


@given(RULES)
def test_rules_are_read_as_they_were_written(rules: Rules) -> None:
    assert decode_rules(json.loads(encode_replace(rules))) == rules


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "to", "x"]), inner),
    max_leaves=6,
)


@given(st.sampled_from(["names", "deniedNames", "deny"]), JSON)
def test_a_replacement_that_is_none_is_a_value_error(key: str, value: Any) -> None:
    message: dict[str, Any] = {"op": "replace", "names": [], "deniedNames": [], "deny": [], key: value}
    if value == []:
        assert decode_rules(message) == Rules()
    else:
        with pytest.raises(ValueError):
            decode_rules(message)


def test_an_unknown_field_is_not_passed_over() -> None:
    fields = json.loads(encode(PLAIN))
    with pytest.raises(ValueError):
        decode(json.dumps({**fields, "deniedName": []}).encode())
    del fields["deny"]
    with pytest.raises(ValueError):
        decode(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        replace(PLAIN, names=(NameRule("names.0", "", "*", addresses=("192.0.2.0/240",)),)),
        replace(PLAIN, names=(NameRule("names.0", "", "*a.test"),)),
        replace(PLAIN, denied_names=(NameRule("deniedNames.0", "", "a.*"),)),
        replace(PLAIN, deny=(Rule("egress.deny.0", "", (Peer("example.test"),)),)),
        replace(PLAIN, deny=(Rule("egress.deny.0", "", (Peer("0.0.0.0/0", ("x",)),)),)),
        replace(PLAIN, listeners=(Listener(ListenerKind.FORWARD_TCP, 5),)),
        replace(PLAIN, listeners=(Listener(ListenerKind.PROXY, 5, Target("127.0.0.1", 1, False, "r")),)),
        replace(PLAIN, listeners=(Listener(ListenerKind.FORWARD_TCP, 5, Target("a.test", 1, False, "r")),)),
        replace(PLAIN, listeners=(Listener(ListenerKind.FORWARD_TCP, 5, Target("127.0.0.1", 1, True, "r")),)),
        replace(PLAIN, nameservers=("dns.test",)),
    ],
)
def test_what_could_not_be_served_is_refused_at_the_start(wrong: EgressSettings) -> None:
    with pytest.raises(ValueError):
        decode(encode(wrong))
