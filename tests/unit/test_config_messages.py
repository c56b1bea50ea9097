"""How problems read: all at once, with a fix, without secrets, printable. Rule: config-schema.md §5."""

from __future__ import annotations

from typing import Any

import pytest

from mxc_ops.config.loader import MAX_PROBLEMS
from tests.unit.config_cases import one_shot, problems, signs

SECRET = "hunter2-hunter2"


def test_all_problems_of_shape_and_rules_are_reported_at_once() -> None:
    document = {
        "version": "0.8.0-alpha",
        "containment": "bubblewrap",
        "surprise": 1,
        "process": {"commandLine": 5, "env": ["A"]},
        "filesystem": {"readonly_paths": [], "deniedPaths": [""]},
        "lxc": {},
        "network": {"defaultPolicy": "block", "egress": {"allow": [{"to": [{"cidr": "x"}]}]}},
    }
    assert signs(document) == {
        ("unknown_field", "/surprise"),
        ("wrong_type", "/process/commandLine"),
        ("invalid_value", "/process/env/0"),
        ("unknown_field", "/filesystem/readonly_paths"),
        ("invalid_value", "/filesystem/deniedPaths/0"),
        ("foreign_section", "/lxc"),
        ("conflicting_fields", "/network/defaultPolicy"),
        ("invalid_value", "/network/egress/allow/0/to/0/cidr"),
    }


def test_an_unknown_field_hides_no_other_problem() -> None:
    document = one_shot(
        containment="bubblewrap",
        processContainer={"surprise": 1},
        network={"egress": {"deny": [{"x": 1, "to": [{"cidr": "x"}]}]}},
    )
    assert signs(document) == {
        ("unknown_field", "/processContainer/surprise"),
        ("foreign_section", "/processContainer"),
        ("unknown_field", "/network/egress/deny/0/x"),
        ("invalid_value", "/network/egress/deny/0/to/0/cidr"),
    }


def test_what_follows_from_another_mistake_is_not_reported() -> None:
    assert signs(one_shot(containment="lcx", lxc={})) == {("invalid_value", "/containment")}
    assert signs(one_shot(process=5)) == {("wrong_type", "/process")}


def test_the_number_of_problems_is_bounded() -> None:
    for process in ({"commandLine": "a", "env": ["x"] * 1000}, {"commandLine": "a", "env": [1] * 1000}):
        found = problems(one_shot(process=process))
        assert len(found) == MAX_PROBLEMS + 1
        assert found[-1].code == "more_problems"


@pytest.mark.parametrize(
    ("fields", "suggestion"),
    [
        ({"filesystem": {"readonly_paths": []}}, "readonlyPaths"),
        ({"filesystem": {"readOnlyPaths": []}}, "readonlyPaths"),
        ({"filesystem": {"readonlyPath": []}}, "readonlyPaths"),
        ({"filesytem": {}}, "filesystem"),
        ({"containment": "Bubblewrap"}, "bubblewrap"),
        ({"containment": "bublewrap"}, "bubblewrap"),
        ({"ui": {"clipboard": "reed"}}, "read"),
    ],
)
def test_a_near_miss_is_suggested(fields: dict[str, Any], suggestion: str) -> None:
    (problem,) = problems(one_shot(**fields))
    assert problem.fix == f"did you mean '{suggestion}'?"


def test_nothing_is_suggested_for_what_resembles_nothing() -> None:
    (problem,) = problems(one_shot(zzz=1))
    assert "did you mean" not in problem.fix
    assert "'process'" in problem.expected


def test_a_problem_says_what_was_expected() -> None:
    (problem,) = problems(one_shot(process={"commandLine": "a", "timeout": 2**32}))
    assert str(problem) == (
        "/process/timeout: 4294967296 is out of range; expected: an integer from 0 to 4294967295"
    )


SECRETIVE: list[dict[str, Any]] = [
    {"process": {"commandLine": "a", "env": [f"TOKEN {SECRET}"]}},
    {"process": {"commandLine": "a", "env": {"TOKEN": SECRET}}},
    {"process": {"commandLine": [SECRET]}},
    {"network": {"proxy": {"url": f"ftp://user:{SECRET}@proxy"}}},
    {"network": {"proxy": f"http://user:{SECRET}@proxy"}},
    {"runtimeConfig": {"networkProxy": f"http://u:{SECRET}@proxy"}},
    {"mxcOps": {"stdin": {"text": 5, "x": SECRET}}},
    {"mxcOps": {"env": {"A": SECRET}}},
    {"apiToken": SECRET},
    {"experimental": {"isolation_session": {"provision": {"user": {"upn": "a", "wamToken": [SECRET]}}}}},
]


@pytest.mark.parametrize("fields", SECRETIVE)
@pytest.mark.parametrize("version", ["0.7.0-dev", "0.8.0-alpha", "1.0.0"])
def test_a_secret_is_never_echoed(version: str, fields: dict[str, Any]) -> None:
    found = problems(one_shot(version, **fields))
    assert SECRET not in " ".join(str(problem) for problem in found)


def test_control_and_format_characters_are_escaped() -> None:
    nasty = "a\x1b[2J\u202e\u2028\x7f"
    found = problems({**one_shot(containment=nasty), nasty: 1})
    assert len(found) == 2
    for problem in found:
        assert str(problem).isprintable()
        assert r"a\u001b[2J\u202e\u2028\u007f" in problem.message


def test_long_values_and_names_are_cut() -> None:
    found = problems({**one_shot(containment="v" * 10_000), "k" * 10_000: 1})
    assert all(len(problem.message) < 300 and len(problem.path) < 300 for problem in found)


def test_names_in_pointers_are_escaped_as_json_pointers() -> None:
    assert signs({**one_shot(), "a/b~c": 1}) == {("unknown_field", "/a~1b~0c")}
