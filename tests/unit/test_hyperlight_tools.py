"""Functions of the host as tools: by name, with typed JSON."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from mxc_ops import ConfigError, Hyperlight, MxcError
from mxc_ops.hyperlight.tools import BadArguments, Toolbox, make_tool


class Order(BaseModel):
    item: str
    count: Annotated[int, Field(ge=1)] = 1


def typed(a: int, b: float = 0.5, *rest: str, when: date | None = None, **more: list[int]) -> Any:
    return a, b, rest, when, more


untyped: Callable[..., Any] = eval("lambda a, b=2: (a, b)")  # it has no types at all


def call(function: Callable[..., Any], *args: Any, schema: Any = None, **kwargs: Any) -> Any:
    tool = make_tool("tool", function, None, schema)
    checked, named = tool.check(args, kwargs)
    return tool.function(*checked, **named)


def test_arguments_become_what_annotations_say() -> None:
    made = call(typed, 1, 2, "x", "y", when="2026-01-02", more=[3])
    assert made == (1, 2.0, ("x", "y"), date(2026, 1, 2), {"more": [3]})
    assert call(untyped, a={"any": None}) == ({"any": None}, 2)
    assert call(max, 1, 2) == 2, "one that says nothing of its arguments takes what it takes"


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        (["1"], {}, ["a: ", "valid integer", '"1" (string)']),
        ([True], {}, ["a: ", "integer", "true (boolean)"]),
        ([1.5], {}, ["a: ", "1.5 (number)"]),
        ([1, None], {}, ["b: ", "valid number", "null (null)"]),
        ([1, 2, 3], {}, ["rest: ", "valid string", "3 (integer)"]),
        ([1], {"when": "soon"}, ["when", "date", '"soon" (string)']),
        ([1], {"more": [1, "x"]}, ["more.1: ", '"x" (string)']),
        ([], {}, ["missing", "'a'"]),
        ([1], {"a": 1}, ["multiple values", "'a'"]),
    ],
)
def test_a_mismatch_names_argument_and_type(args: list[Any], kwargs: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(BadArguments) as caught:
        call(typed, *args, **kwargs)
    for part in said:
        assert part in str(caught.value)


def test_a_model_says_the_types_of_a_function_that_does_not() -> None:
    def buy(**order: Any) -> Any:
        return order

    assert call(buy, "nail", 2, schema=Order) == {"item": "nail", "count": 2}
    assert call(buy, item="nail", schema=Order) == {"item": "nail"}
    for args, kwargs in (([], {}), (["nail", 0], {}), (["nail", "2"], {}), (["a", 1, 2], {})):
        with pytest.raises(BadArguments):
            call(buy, *args, schema=Order, **kwargs)
    with pytest.raises(BadArguments, match="item was passed twice"):
        call(buy, "nail", schema=Order, item="nail")


def test_registering_takes_a_name_or_the_functions_own_and_decorates() -> None:
    hyperlight = Hyperlight(tools=[typed])

    @hyperlight.register_tool
    def other(kind: Literal["a", "b"]) -> str:
        return kind

    assert other("a") == "a"
    assert hyperlight.register_tool("third", other) is other
    with pytest.raises(ConfigError) as caught:
        hyperlight.register_tool("typed", other)
    assert caught.value.problems[0].code == "tool_taken"


@pytest.mark.parametrize(
    ("arguments", "options", "code"),
    [
        (("not a name", len), {}, "invalid_value"),
        (("ñ", len), {}, "invalid_value"),
        (("a" * 65, len), {}, "invalid_value"),
        ((lambda: None,), {}, "invalid_value"),
        (("name", 5), {}, "wrong_type"),
        (("name", None), {}, "wrong_type"),
        (("name", len), {"timeout_s": 0}, "out_of_range"),
    ],
)
def test_what_is_no_tool_is_refused(arguments: Any, options: Any, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Hyperlight().register_tool(*arguments, **options)
    assert caught.value.problems[0].code == code


def test_types_that_cannot_be_checked_are_refused_when_registered() -> None:
    def strange(a: FakeType) -> None:
        del a

    def missing(a: Any) -> None:
        del a

    missing.__annotations__["a"] = "Nowhere"
    functions: list[Callable[..., Any]] = [missing, strange]
    for function in functions:
        with pytest.raises(ConfigError) as caught:
            Hyperlight().register_tool(function)
        assert caught.value.problems[0].code == "tool_untyped"


class FakeType:
    """No type that pydantic knows."""


def test_only_known_names_can_be_allowed() -> None:
    box = Toolbox()
    box.add(make_tool(typed, None, None))
    assert list(box.allowed(None)) == list(box.allowed(["typed"])) == ["typed"]
    assert box.allowed([]) == {}
    for wrong in (["other"], "typed"):
        with pytest.raises(ConfigError):
            box.allowed(wrong)


@pytest.mark.parametrize("runtime", ["bash", "python-shell"])
def test_runtimes_without_an_interpreter_that_stays_have_no_tools(runtime: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Hyperlight(runtime=runtime).register_tool("add", typed)
    assert caught.value.problems[0].code == "no_tools" and runtime in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"runtime": "perl"}, "runtime"),
        ({"output_at": "output"}, "output_at"),
        ({"output_at": "/a/../b"}, "output_at"),
        ({"output_at": "/usr"}, "output_at"),
        ({"output_at": "/proc/x"}, "output_at"),
        ({"output_at": "/tmp"}, "output_at"),
        ({"output_at": "/data/x", "denied": ["/data"]}, "output_at"),
        ({"output_at": "/host/x"}, "output_at"),
        ({"output_mib": 0}, "output_mib"),
        ({"max_calls": -1}, "max_calls"),
        ({"tool_timeout_s": 0}, "tool_timeout_s"),
        ({"containment": "bubblewrap"}, "containment"),
        ({"tty": True}, "tty"),
        ({"timeout_s": -1}, "timeout_s"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_starts(arguments: Any, path: str) -> None:
    with pytest.raises(MxcError) as caught:
        Hyperlight(**arguments)
    assert [problem.path for problem in caught.value.problems] == [path]
