"""Records behave as frozen dataclasses do, and cost no import of `dataclasses`."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from backends.record import field, record, replace


@record
class Point:
    """Two numbers and what goes with them."""

    x: int
    y: int = 0
    tags: tuple[str, ...] = field(default_factory=lambda: ("plain",))
    secret: str = field(default="", repr=False, compare=False)


def test_fields_are_given_by_position_or_name_and_the_rest_have_defaults() -> None:
    assert (Point(1, y=2).x, Point(1, y=2).y, Point(1).y, Point(1).tags) == (1, 2, 0, ("plain",))


@pytest.mark.parametrize(
    ("given", "named", "at_fault"),
    [((), {}, "'x'"), ((1,), {"x": 2}, "'x'"), ((1,), {"z": 2}, "z"), ((1, 2, (), "", 5), {}, "too many")],
)
def test_wrong_arguments_are_named(given: tuple[int, ...], named: dict[str, int], at_fault: str) -> None:
    with pytest.raises(TypeError, match=at_fault):
        Point(*given, **named)  # pyright: ignore[reportArgumentType, reportCallIssue] - wrong on purpose


def test_a_record_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="frozen"):
        point.x = 2  # pyright: ignore[reportAttributeAccessIssue] - wrong on purpose
    with pytest.raises(AttributeError, match="frozen"):
        del point.x  # pyright: ignore[reportAttributeAccessIssue] - wrong on purpose


def test_equality_hash_and_repr_leave_out_what_they_are_told_to() -> None:
    assert Point(1, secret="a") == Point(1, secret="b") != Point(2)
    assert len({Point(1, secret="a"), Point(1, secret="b")}) == 1
    assert "hidden" not in repr(Point(1, secret="hidden"))
    assert Point(1) != (1, 0, ("plain",), "")


def test_replace_gives_a_changed_copy() -> None:
    assert replace(Point(1, 2), y=3) == Point(1, 3) == dataclasses.replace(Point(1, 2), y=3)


def test_dataclass_functions_work_on_records() -> None:
    assert dataclasses.asdict(Point(1)) == {"x": 1, "y": 0, "tags": ("plain",), "secret": ""}
    assert [one.name for one in dataclasses.fields(Point)] == ["x", "y", "tags", "secret"]


def test_matching_by_position_works() -> None:
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_a_derived_record_has_the_fields_of_its_base_first() -> None:
    @record
    class Named(Point):
        name: str = "origin"

    assert Named(1, 2, name="corner").name == "corner"
    assert [one.name for one in dataclasses.fields(Named)][-1] == "name"


def test_records_do_not_import_dataclasses(checkout: Path) -> None:
    source = "import sys, backends.record; sys.exit('dataclasses' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], cwd=checkout).returncode == 0
