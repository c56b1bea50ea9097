"""Shapes → validators: pydantic's own engine, driven by our tables.

The tables become core schemas directly, not model classes: documents stay plain dicts, all versions share
their shapes, and a cold process does not pay for building classes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

from pydantic_core import SchemaValidator

from mxc_ops.config.models.editions import Edition
from mxc_ops.config.models.kinds import Kind, Shape, Shapes, Sort

if TYPE_CHECKING:
    from pydantic_core import CoreConfig, CoreSchema

EITHER_ERROR = "either"

_STRICT: CoreConfig = {"strict": True}


@cache
def validator(edition: Edition, root: str) -> SchemaValidator:
    """The validator of the request shape `root` of an edition: closed at every depth, nothing coerced."""
    compiler = _Compiler(edition.shapes, nulls=edition.nulls)
    return SchemaValidator(compiler.shape(root), _STRICT)


class _Compiler:
    """Builds core schemas; a shape that is used twice is built once."""

    def __init__(self, shapes: Shapes, *, nulls: bool) -> None:
        self._shapes = shapes
        self._nulls = nulls
        self._done: dict[str, CoreSchema] = {}

    def shape(self, name: str) -> CoreSchema:
        if name not in self._done:
            # Our extension is not upstream's: null means nothing there.
            nulls = self._nulls and not name.startswith("MxcOps")
            self._done[name] = self._closed(self._shapes[name], nulls=nulls)
        return self._done[name]

    def _closed(self, shape: Shape, *, nulls: bool) -> CoreSchema:
        fields: dict[str, Any] = {}
        for name, kind in shape.items():
            schema = self._kind(kind)
            if nulls and not kind.required and kind.section != "MxcOps":
                schema = {"type": "nullable", "schema": schema}
            fields[name] = {"type": "typed-dict-field", "schema": schema, "required": kind.required}
        # An object's fields follow the object's own configuration, not the validator's.
        schema = {"type": "typed-dict", "fields": fields, "extra_behavior": "forbid", "config": _STRICT}
        return cast("CoreSchema", schema)

    def _kind(self, kind: Kind) -> Any:
        match kind.sort:
            case Sort.SECTION:
                return self.shape(kind.section)
            case Sort.LIST:
                assert kind.item is not None
                return {
                    "type": "list",
                    "items_schema": self._kind(kind.item),
                    "min_length": kind.min_length,
                }
            case Sort.NAMED:
                assert kind.item is not None
                return {
                    "type": "dict",
                    "keys_schema": {"type": "str", "min_length": 1},
                    "values_schema": self._kind(kind.item),
                }
            case Sort.EITHER:
                return {
                    "type": "union",
                    "choices": [self._kind(member) for member in kind.members],
                    "custom_error_type": EITHER_ERROR,
                    "custom_error_message": kind.expected.replace("{", "{{").replace("}", "}}"),
                    "mode": "left_to_right",
                }
            case _:
                return _scalar(kind)


def _scalar(kind: Kind) -> dict[str, Any]:
    match kind.sort:
        case Sort.TEXT:
            return {"type": "str", "min_length": kind.min_length}
        case Sort.FLAG:
            return {"type": "bool"}
        case Sort.INTEGER:
            return _bounded({"type": "int"}, ge=kind.minimum, le=kind.maximum)
        case Sort.NUMBER:
            return _bounded({"type": "float", "allow_inf_nan": False}, ge=kind.minimum, le=kind.maximum)
        case Sort.CHOICE:
            literal = {"type": "literal", "expected": list(kind.choices)}
            # To Python 1 equals True, so a literal alone would take it.
            return (
                literal
                if kind.choices != (True,)
                else {"type": "chain", "steps": [{"type": "bool"}, literal]}
            )
        case _:
            return {"type": "any"}


def _bounded(schema: dict[str, Any], **bounds: float | None) -> dict[str, Any]:
    return schema | {name: bound for name, bound in bounds.items() if bound is not None}
