"""Validate a document against a published JSON Schema file, with `jsonschema` (the extra ``schema``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.errors import BackendUnavailable, ConfigError, Problem, UsageError

if TYPE_CHECKING:
    from jsonschema import ValidationError

_NAMES_KEYS_ONLY = frozenset({"additionalProperties", "required", "unevaluatedProperties"})
_WANTED_AT_MOST = 200


def check_against_schema(source: bytes, schema_file: str) -> Any:
    """The document's JSON value when the schema accepts it.

    Raises `ConfigError` with every mismatch, `UsageError` when the schema file is no JSON Schema,
    `BackendUnavailable` when `jsonschema` is not installed.
    """
    try:
        from jsonschema import SchemaError
        from jsonschema.validators import validator_for
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ModuleNotFoundError:
        raise BackendUnavailable(
            Problem("missing_package", "--schema", "needs jsonschema", fix="pip install jsonschema")
        ) from None

    from mxc_ops.config.text import parse

    schema = _read_schema(schema_file)
    body = parse(source)
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise _not_a_schema(schema_file, error.message) from error
    # An empty registry: a schema that refers to another file or address must not make us fetch it.
    try:
        mismatches = list(kind(schema, registry=Registry()).iter_errors(body))
    except Unresolvable as error:
        raise _not_a_schema(schema_file, f"{error.ref!r} is in another file") from error
    if mismatches:
        raise ConfigError(_problem(_closest(mismatch)) for mismatch in mismatches)
    return body


def _closest(mismatch: ValidationError) -> ValidationError:
    """Of the branches of an anyOf, the one that came closest says what is wrong."""
    from jsonschema import exceptions

    library: Any = exceptions  # best_match has no return type there
    closest: ValidationError | None = library.best_match([mismatch])
    return closest or mismatch


def _read_schema(schema_file: str) -> Any:
    import json

    try:
        return json.loads(Path(schema_file).read_bytes())
    except (OSError, ValueError) as error:
        raise _not_a_schema(schema_file, str(error)) from error


def _not_a_schema(schema_file: str, reason: str) -> UsageError:
    return UsageError(Problem("usage", "--schema", f"{schema_file} is no usable JSON Schema: {reason}"))


def _problem(mismatch: ValidationError) -> Problem:
    """One mismatch in our terms. The library's own messages quote values, which may be secrets."""
    pointer = "".join(f"/{_escape(str(part))}" for part in mismatch.absolute_path)
    rule = str(mismatch.validator)
    if rule in _NAMES_KEYS_ONLY:
        return Problem("schema_mismatch", pointer, mismatch.message)
    wanted = str(mismatch.validator_value)
    if len(wanted) > _WANTED_AT_MOST:
        wanted = f"{wanted[:_WANTED_AT_MOST]}…"
    return Problem("schema_mismatch", pointer, f"does not satisfy the schema's {rule!r}", expected=wanted)


def _escape(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")
