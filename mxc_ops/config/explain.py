"""What a validator found → problems in the document's own terms. Used on the error path only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from backends.errors import Problem
from mxc_ops.config import extension, suggest, wording
from mxc_ops.config.models import compiled, editions
from mxc_ops.config.models.editions import Edition
from mxc_ops.config.models.kinds import Kind, Shape, Sort

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails, ValidationError

Path = tuple[str | int, ...]

_REPLACEMENTS: Mapping[tuple[str, str], str] = {
    ("Network", "defaultPolicy"): "use network.egress.default ('allow' or 'deny')",
    ("Network", "allowedHosts"): "use network.egress.allow with addresses, mxcOps.network.names with names",
    (
        "Network",
        "blockedHosts",
    ): "use network.egress.deny with addresses, mxcOps.network.deniedNames with names",
    ("Network", "allowLocalNetwork"): "use network.ingress.default ('allow' or 'deny')",
    ("Network", "enforcementMode"): "remove it: enforcement is implied",
    ("Network", "proxy"): "use runtimeConfig.networkProxy",
    ("Request", "appContainer"): "use 'processContainer'",
    ("Request", "macos_sandbox"): "use 'seatbelt'",
    ("Request", "experimental"): "its sections are at the root in this version",
}
"""What took the place of a field in the exact contracts, by the name of its shape (config-schema.md §7)."""

_ALWAYS_TOLD: Mapping[tuple[str, str], str] = {
    ("Process", "args"): "use process.commandLine, or mxcOps.args to run without a shell",
    ("Request", extension.KEY): "remove it: mxcOps is an extension of mxc-ops, and no contract has it",
}
_BOUND_ERRORS = frozenset({"greater_than_equal", "greater_than", "less_than_equal", "less_than"})
_LENGTH_ERRORS = frozenset({"too_short", "string_too_short"})


@dataclass(frozen=True)
class Findings:
    """`problems`, and `bad`: the paths of what cannot be read, up to the array that it stands in."""

    problems: tuple[Problem, ...]
    bad: tuple[Path, ...]


def explained(error: ValidationError, edition: Edition, root: str, limit: int) -> Findings:
    """The first `limit` findings of `error`, for a document held against the shape `root` of `edition`."""
    problems: list[Problem] = []
    bad: list[Path] = []
    for details in error.errors(include_url=False, include_context=False)[:limit]:
        path: Path = details["loc"]
        problems.append(_problem(details, path, edition, root))
        if details["type"] == "missing":
            # It is the object around it that cannot be read.
            bad.append(_up_to_array(path[:-1]))
        elif details["type"] != "extra_forbidden" or _up_to_array(path) == path:
            # An unknown field in an array does not keep the rules from reading the rest of the array.
            bad.append(_up_to_array(path))
    return Findings(tuple(problems), tuple(path for path in bad if path))


def _up_to_array(path: Path) -> Path:
    for index, step in enumerate(path):
        if isinstance(step, int):
            return path[:index]
    return path


def without(body: Mapping[str, Any], bad: Sequence[Path]) -> dict[str, Any]:
    """`body` without what is at the paths `bad`; objects that are not on those paths are shared."""
    cleaned = dict(body)
    for path in bad:
        place = cleaned
        for step in path[:-1]:
            if step not in place:
                break
            place[str(step)] = place = dict(place[str(step)])
        else:
            place.pop(str(path[-1]), None)
    return cleaned


def _problem(details: ErrorDetails, path: Path, edition: Edition, root: str) -> Problem:
    kind_of_error, value = details["type"], details["input"]
    if kind_of_error == "extra_forbidden":
        return _unknown_field(path, edition, root)
    if path[-1:] == ("[key]",) and kind_of_error in _LENGTH_ERRORS:
        return Problem("empty_value", wording.pointer(path[:-1]), "the name is empty", expected="a name")
    kind = _kind_at(path, edition, root)
    pointer = wording.pointer(path)
    expected = described(kind, edition)
    if kind_of_error == "missing":
        return Problem("missing_field", pointer, f"the field '{path[-1]}' is missing", expected=expected)
    if kind_of_error in _LENGTH_ERRORS:
        return Problem("empty_value", pointer, "must not be empty", expected=expected)
    said = wording.shown(value, path)
    if kind_of_error in _BOUND_ERRORS:
        return Problem("out_of_range", pointer, f"{said} is out of range", expected=expected)
    if kind_of_error == "literal_error" and isinstance(value, str):
        near = suggest.nearest(value, [choice for choice in kind.choices if isinstance(choice, str)])
        fix = f"did you mean '{near}'?" if near else ""
        return Problem(
            "invalid_value", pointer, f"{said} is not a value of this field", expected=expected, fix=fix
        )
    if kind_of_error == compiled.EITHER_ERROR:
        return Problem("invalid_value", pointer, "the value is none of those expected", expected=expected)
    fix = "leave the field out instead" if value is None else ""
    return Problem("wrong_type", pointer, f"is {_type_said(value, said)}", expected=expected, fix=fix)


def _type_said(value: Any, said: str) -> str:
    if isinstance(value, str):
        return said if said == "a string" else f"the string {said}"
    return said


def described(kind: Kind, edition: Edition) -> str:
    """What a field of this kind accepts, in words."""
    match kind.sort:
        case Sort.CHOICE:
            return wording.listed(kind.choices)
        case Sort.INTEGER:
            if kind.maximum is None:
                return f"an integer of at least {kind.minimum}"
            return f"an integer from {kind.minimum} to {kind.maximum}"
        case Sort.NUMBER:
            return f"a number from {kind.minimum} to {kind.maximum}"
        case Sort.TEXT:
            return "a string that is not empty" if kind.min_length else "a string"
        case Sort.LIST:
            assert kind.item is not None
            held = described(kind.item, edition)
            return (
                f"an array with at least one item, each {held}"
                if kind.min_length
                else f"an array, each item {held}"
            )
        case Sort.EITHER:
            return kind.expected
        case Sort.SECTION:
            names = edition.shapes[kind.section]
            return f"an object with {_fields(names)}" if names else "an empty object"
        case _:
            return kind.sort.value


def _fields(shape: Shape) -> str:
    return ", ".join(f"'{name}'" for name in shape)


def _kind_at(path: Path, edition: Edition, root: str) -> Kind:
    kind = Kind(Sort.SECTION, section=root)
    for step in path:
        if kind.sort is Sort.SECTION:
            kind = edition.shapes[kind.section][str(step)]
        elif kind.item is not None:
            kind = kind.item
    return kind


def _unknown_field(path: Path, edition: Edition, root: str) -> Problem:
    parent = _kind_at(path[:-1], edition, root)
    shape = edition.shapes[parent.section]
    field = str(path[-1])
    # Replacements and histories are told of the one-shot request, which the others are cut from.
    shape_name = "Request" if parent.section.endswith("Request") else parent.section
    message = f"unknown field '{wording.name(field)}'"
    knowing = _versions_with(shape_name, field)
    if knowing:
        message += f" in {edition.name}; it exists in {knowing}"
    fix = _ALWAYS_TOLD.get((shape_name, field), "")
    if edition.name in editions.EXACT:
        fix = fix or _REPLACEMENTS.get((shape_name, field), "")
    if not fix:
        near = suggest.nearest(field, shape)
        fix = f"did you mean '{near}'?" if near else "remove it"
    return Problem(
        "unknown_field",
        wording.pointer(path),
        message,
        expected=f"one of {_fields(shape)}" if shape else "no fields",
        fix=fix,
    )


def _versions_with(shape_name: str, field: str) -> str:
    """The contracts that have the field, as a range; "" when none has."""
    names = (
        []
        if field == extension.KEY
        else [name for name in editions.CONTRACTS if field in _fields_of(name, shape_name)]
    )
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}" if names else ""


@cache
def _fields_of(version: str, shape_name: str) -> Shape:
    shapes = editions.CONTRACTS[version].shapes
    return shapes[shape_name] if shape_name in editions.reachable(shapes, "Request") else {}
