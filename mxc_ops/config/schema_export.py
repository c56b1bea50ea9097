"""Our JSON Schema (draft 2020-12) of each version, from the same tables that documents are held against."""

from __future__ import annotations

from typing import Any

from backends.errors import ConfigError, Problem
from mxc_ops.config import rules, wording
from mxc_ops.config.models import editions
from mxc_ops.config.models.editions import Edition
from mxc_ops.config.models.kinds import Kind, Shape, Sort, choice, required
from mxc_ops.policy import machine
from mxc_ops.policy.machine import IMAGE_NAME

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# No comma, and neither reserved name in whatever case: the published pattern's meaning, ECMA 262 spelling.
_CAPABILITY_PATTERN = (
    "^(?!("
    + "|".join(
        "".join(f"[{letter}{letter.upper()}]" for letter in reserved)
        for reserved in sorted(rules.RESERVED_CAPABILITIES)
    )
    + ")$)[^,]*$"
)


def schema_for(version: str, *, with_extension: bool = False) -> dict[str, Any]:
    """The JSON Schema of one version: what `loader.load` takes under `Strictness.CONTRACT`.

    Parameters
    ----------
    version: a name of `editions.CONTRACTS`, e.g. ``0.8.0-alpha``.
    with_extension: also describe `mxcOps`, which is accepted by default.

    Raises `ConfigError` for another version.
    """
    edition = editions.CONTRACTS.get(version)
    if edition is None:
        known = wording.listed(editions.CONTRACTS)
        message = f"there is no schema of version {wording.shown(version)}"
        raise ConfigError(Problem("unsupported_version", "version", message, expected=known))
    if with_extension:
        edition = editions.extended(edition)
    roots = [name for name in edition.shapes if name.endswith("Request")]
    shown = editions.reachable(edition.shapes, *roots)
    definitions = {name: _definition(name, edition) for name in edition.shapes if name in shown}
    if with_extension:
        definitions["Request"].setdefault("allOf", []).append(_SOMETHING_TO_RUN)
        definitions["MxcOps"]["allOf"] = [_KIND_OF_COMMAND]
    return {
        "$schema": DIALECT,
        "$id": f"urn:mxc-ops:schema:{version}{':mxc-ops' if with_extension else ''}",
        "title": f"MXC configuration {version}",
        **_entry(roots),
        "$defs": definitions,
    }


_SOMETHING_TO_RUN: dict[str, Any] = {
    "if": {"properties": {"mxcOps": {"required": ["args"]}}, "required": ["mxcOps"]},
    "then": {"properties": {"process": {"properties": {"commandLine": False}}}},
    "else": {
        "if": {"required": ["phase"]},
        "else": {"properties": {"process": {"required": ["commandLine"]}}, "required": ["process"]},
    },
}


_KIND_OF_COMMAND: dict[str, Any] = {
    "if": {"required": ["args"]},
    "then": {"properties": {"vm": {"properties": {"command": {"const": "args"}}}}},
    "else": {
        "properties": {
            "vm": {"properties": {"command": {"enum": [kind for kind in machine.COMMANDS if kind != "args"]}}}
        }
    },
}


def _entry(roots: list[str]) -> dict[str, Any]:
    if len(roots) == 1:
        return _reference(roots[0])
    return {
        "if": {"required": ["phase"]},
        "then": {"oneOf": [_reference(name) for name in roots if name != "Request"]},
        "else": _reference("Request"),
    }


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def _definition(name: str, edition: Edition) -> dict[str, Any]:
    shape: Shape = edition.shapes[name]
    if "version" in shape:
        shape = {**shape, "version": required(choice(edition.name))}
    nulls = edition.nulls and not name.startswith("MxcOps")
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field: _field(kind, nulls) for field, kind in shape.items()},
        "additionalProperties": False,
    }
    needed = [field for field, kind in shape.items() if kind.required]
    if needed:
        schema["required"] = needed
    if name == "Proxy" and edition.one_proxy:
        schema |= {"minProperties": 1, "maxProperties": 1}
    if name == "ProcessContainer" and edition.capability_names:
        schema["properties"]["capabilities"]["items"]["pattern"] = _CAPABILITY_PATTERN
    if name == "MxcOpsVm":
        schema["properties"]["image"]["pattern"] = f"^{IMAGE_NAME}$"
    conditions = _conditions(shape, edition) if name == "Request" else []
    if conditions:
        schema["allOf"] = conditions
    return schema


def _conditions(shape: Shape, edition: Edition) -> list[dict[str, Any]]:
    conditions: list[dict[str, Any]] = [
        {"not": {"required": [name, old_name]}}
        for name, old_name in rules.SAME_SECTION
        if name in shape and old_name in shape
    ]
    for path, containments in edition.section_needs.items():
        wanted = {"properties": {"containment": {"enum": list(containments)}}, "required": ["containment"]}
        conditions.append({"if": _present(path.split("/")), "then": wanted})
    return conditions


def _present(path: list[str]) -> dict[str, Any]:
    here: dict[str, Any] = {"required": [path[0]]}
    if len(path) > 1:
        here["properties"] = {path[0]: _present(path[1:])}
    return here


def _field(kind: Kind, nulls: bool) -> dict[str, Any]:
    schema = _kind(kind)
    if not nulls or kind.required or kind.section == "MxcOps" or kind.sort is Sort.ANYTHING:
        return schema
    return {"anyOf": [schema, {"type": "null"}]}


def _kind(kind: Kind) -> dict[str, Any]:
    match kind.sort:
        case Sort.SECTION:
            return _reference(kind.section)
        case Sort.LIST:
            assert kind.item is not None
            return _with({"type": "array", "items": _kind(kind.item)}, minItems=kind.min_length or None)
        case Sort.NAMED:
            assert kind.item is not None
            return {
                "type": "object",
                "propertyNames": {"minLength": 1},
                "additionalProperties": _kind(kind.item),
            }
        case Sort.EITHER:
            return {"anyOf": [_kind(member) for member in kind.members]}
        case Sort.CHOICE:
            return {"const": kind.choices[0]} if len(kind.choices) == 1 else {"enum": list(kind.choices)}
        case Sort.TEXT:
            return _with({"type": "string"}, minLength=kind.min_length or None)
        case Sort.FLAG:
            return {"type": "boolean"}
        case Sort.INTEGER:
            return _with({"type": "integer"}, minimum=kind.minimum, maximum=kind.maximum)
        case Sort.NUMBER:
            return _with({"type": "number"}, minimum=kind.minimum, maximum=kind.maximum)
        case Sort.ANYTHING:
            return {}


def _with(schema: dict[str, Any], **keywords: float | None) -> dict[str, Any]:
    return schema | {name: value for name, value in keywords.items() if value is not None}
