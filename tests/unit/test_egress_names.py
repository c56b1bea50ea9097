"""Which names the filtering proxy lets through."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.egress.names import Decision, NameTable, canonical, is_pattern
from backends.egress.rules import Rules
from backends.network.policy import Inspection, NameRule

LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?", fullmatch=True)
NAMES = (
    st.lists(LABELS, min_size=1, max_size=5).map(".".join).filter(lambda name: canonical(name) is not None)
)


def rule(pattern: str, name: str = "names.0", **more: Any) -> NameRule:
    return NameRule(name, "/network", pattern, **more)


def decide(rules: Rules, text: str, port: int | None, method: str | None = None) -> Decision:
    return NameTable(rules).decide(text, port, method)


def matches(pattern: str, name: str) -> bool:
    return decide(Rules((rule(pattern),)), name, None).allowed


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.test", "example.test"),
        ("EXAMPLE.Test.", "example.test"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_srv.a-b.example", "_srv.a-b.example"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("0x7f.example", "0x7f.example"),
        ("a" * 63 + ".test", "a" * 63 + ".test"),
        (".".join(["a" * 49] * 5) + ".abc.", ".".join(["a" * 49] * 5) + ".abc"),
    ],
)
def test_a_name_has_one_spelling(text: str, name: str) -> None:
    assert canonical(text) == name


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            "..",
            "a..test",
            ".test",
            "test..",
            "a b.test",
            "a.test ",
            "\ta.test",
            "a\x00.test",
            "a.test\n",
        ),
        *("bücher.example", "\u2170.test", "\uff41.test", "a\u3002test", "\u212a.test"),
        *("a/b.test", "a@b.test", "a:1", "a%2etest", "a\\b", "*.test", "-a.test", "a-.test", "a.test-"),
        *("a" * 64 + ".test", ".".join(["a" * 49] * 5) + ".abcde", "a" * 300),
        *(
            "127.0.0.1",
            "127.1",
            "127.0.0.1.",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "017700000001",
            "0x",
            "1",
        ),
        *("::1", "[::1]", "2001:db8::1", "fe80::1%eth0", "a.0x7f", "a.1"),
    ],
)
def test_what_is_no_name_is_none_under_any_rule(text: str) -> None:
    assert canonical(text) is None
    assert not decide(Rules((rule("*"),)), text, 443).allowed


@given(st.text(alphabet="0123456789abcdefx.", max_size=20) | st.text(max_size=20))
def test_nothing_that_the_system_reads_as_an_address_is_a_name(text: str) -> None:
    try:
        socket.inet_aton(text)
    except (OSError, ValueError):
        return
    assert canonical(text) is None


@given(st.text(max_size=300))
def test_any_text_is_one_acceptable_name_or_none(text: str) -> None:
    name = canonical(text)
    assert name is None or (canonical(name) == name and len(name) <= 253 and name.isascii())


@given(NAMES, NAMES)
def test_a_suffix_holds_for_every_name_below_and_not_for_itself(suffix: str, below: str) -> None:
    assert matches(f"*.{suffix}", f"{below}.{suffix}")
    assert not matches(f"*.{suffix}", suffix)
    assert not matches(f"*.{suffix}", f"x{suffix}")
    assert matches(suffix, suffix)
    assert not matches(suffix, f"{below}.{suffix}")
    assert matches("*", suffix)


@given(NAMES, st.integers(1, 65_535), st.lists(st.sampled_from(["*", "*.test", "a.test"]), max_size=3))
def test_a_denied_name_is_denied_whatever_is_allowed(name: str, port: int, patterns: list[str]) -> None:
    allowed = tuple([rule(pattern, ports=((1, 65_535),)) for pattern in patterns])
    decision = decide(Rules(allowed, (rule(name, "deniedNames.0"),)), name.upper(), port)
    assert (decision.allowed, decision.rule, decision.reason) == (False, "deniedNames.0", "name_denied")


@given(NAMES, st.integers(1, 65_535))
def test_what_no_rule_allows_is_denied(name: str, port: int) -> None:
    decision = decide(Rules((rule("*.only.invalid"),)), name, port)
    assert (decision.allowed, decision.rule, decision.reason) == (False, "names.default", "name_not_allowed")


def test_a_denied_name_is_denied_at_ports_that_its_rule_does_not_list() -> None:
    rules = Rules((rule("*", ports=((8443, 8443),)),), (rule("bad.test", "deniedNames.0"),))
    assert decide(rules, "bad.test", 8443).reason == "name_denied"
    assert decide(rules, "good.test", 8443).allowed


def test_ports_are_ranges_with_both_ends_and_a_look_up_needs_any() -> None:
    rules = Rules((rule("a.test", ports=((8000, 8002), (9000, 9000))),))
    allowed = [port for port in range(7990, 9010) if decide(rules, "a.test", port).allowed]
    assert allowed == [8000, 8001, 8002, 9000]
    missed = decide(rules, "a.test", 443)
    assert (missed.rule, missed.reason) == ("names.0", "port_not_allowed")
    assert decide(rules, "a.test", None).allowed


def test_methods_limit_only_where_one_is_known() -> None:
    rules = Rules((rule("a.test", methods=("GET", "HEAD")),))
    assert decide(rules, "a.test", 80, "GET").allowed
    assert decide(rules, "a.test", 80).allowed
    for method in ("POST", "get", "GE"):
        assert decide(rules, "a.test", 80, method).reason == "method_not_allowed"


def test_the_first_rule_that_matches_wholly_decides() -> None:
    rules = Rules((rule("a.test", methods=("GET",)), rule("*.test", "names.1", inspection=Inspection.NONE)))
    assert decide(rules, "a.test", 80, "GET").rule == "names.0"
    assert decide(rules, "a.test", 80, "POST").rule == "names.1"


@pytest.mark.parametrize(
    ("more", "port", "inspection"),
    [
        ({}, 80, Inspection.HTTP),
        ({}, 443, Inspection.TLS),
        ({"ports": ((8080, 8080),)}, 8080, Inspection.TLS),
        ({"inspection": Inspection.NONE}, 443, Inspection.NONE),
        ({"inspection": Inspection.HTTP}, 443, Inspection.HTTP),
        ({"inspection": Inspection.TLS}, 80, Inspection.TLS),
    ],
)
def test_what_is_inspected(more: dict[str, Any], port: int, inspection: Inspection) -> None:
    assert decide(Rules((rule("a.test", **more),)), "a.test", port).inspection is inspection


def test_a_limit_on_methods_is_not_lost_in_an_uninspected_tunnel() -> None:
    limited = rule("a.test", methods=("GET",), inspection=Inspection.NONE)
    assert decide(Rules((limited,)), "a.test", 80).inspection is Inspection.HTTP


@given(st.lists(st.sampled_from(["a.test", "*.a.test", "*.test", "*", "b.test"]), max_size=6))
def test_of_several_rules_the_first_one_written_decides(patterns: list[str]) -> None:
    rules = Rules(tuple([rule(pattern, f"names.{place}") for place, pattern in enumerate(patterns)]))
    own = [place for place, pattern in enumerate(patterns) if pattern in ("*.a.test", "*.test", "*")]
    expected = f"names.{own[0]}" if own else "names.default"
    assert decide(rules, "x.a.test", 443).rule == expected


@pytest.mark.parametrize(
    "text", ["", "*.", "**", "*.*.test", "a*.test", "a.*", "*test", "127.0.0.1", "*.1", "a b"]
)
def test_a_pattern_that_matches_nothing_is_none(text: str) -> None:
    assert not is_pattern(text)


@given(NAMES)
def test_patterns(name: str) -> None:
    assert is_pattern(name) and is_pattern(f"*.{name}") and is_pattern("*")
