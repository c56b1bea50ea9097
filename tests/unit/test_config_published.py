"""Our verdicts agree with every schema that upstream publishes, but for the differences that are listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft7Validator

from backends.errors import ConfigError
from mxc_ops.config.document import Strictness
from mxc_ops.config.loader import load
from tests.unit import instances
from tests.unit.schema_differences import ABSENT, DIFFERENCES, SCHEMAS, Difference, rendered

Sign = tuple[str, str, str]  # what we do, the sign of it, the pointer


def _schema(shared_dir: Path, name: str) -> dict[str, Any]:
    return json.loads((shared_dir / "mxc-schemas" / SCHEMAS[name][0]).read_text())


def _disagreements(document: Any, validator: Draft7Validator, strictness: Strictness) -> list[Sign]:
    theirs = [(_keyword(error), _pointer(error)) for error in validator.iter_errors(document)]  # pyright: ignore[reportUnknownMemberType]
    try:
        load(json.dumps(document).encode(), strictness=strictness)
    except ConfigError as error:
        ours = [("refuse", problem.code, problem.path) for problem in error.problems]
        return [] if theirs else ours
    return [("accept", keyword, pointer) for keyword, pointer in theirs]


def _keyword(error: Any) -> str:
    return error.validator


def _pointer(error: Any) -> str:
    return "".join(f"/{step}" for step in error.absolute_path)


@pytest.mark.parametrize("name", SCHEMAS)
def test_verdicts_agree_with_the_published_schema(name: str, shared_dir: Path, soak: bool) -> None:
    _file, version, strictness = SCHEMAS[name]
    schema = _schema(shared_dir, name)
    validator = Draft7Validator(schema)

    @settings(
        max_examples=2000 if soak else 200,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(instances.documents(schema, version))
    def agree(document: dict[str, Any]) -> None:
        for we, sign, pointer in _disagreements(document, validator, strictness):
            value = instances.at(document, pointer)
            known = any(row.explains(name, we, sign, pointer, value) for row in DIFFERENCES)
            assert known, f"we {we} for {sign} at {pointer!r}: {document}"

    agree()


@pytest.mark.parametrize(
    ("row", "name"),
    [
        pytest.param(row, name, id=f"{name}-{row.we}-{row.sign}-{index}")
        for index, row in enumerate(DIFFERENCES)
        for name in row.schemas[:1]
    ],
)
def test_each_listed_difference_exists(row: Difference, name: str, shared_dir: Path) -> None:
    _file, version, strictness = SCHEMAS[name]
    document: dict[str, Any] = {"version": version, "process": {"commandLine": "true"}, **row.example}
    document = {key: value for key, value in document.items() if value != ABSENT}
    signs = _disagreements(document, Draft7Validator(_schema(shared_dir, name)), strictness)
    assert any(row.explains(name, *sign, instances.at(document, sign[2])) for sign in signs), signs


def test_the_page_of_differences_is_the_table(checkout: Path) -> None:
    page = checkout / "docs" / "schema-differences.md"
    assert page.read_text() == rendered(), (
        "python -m tests.unit.schema_differences > docs/schema-differences.md"
    )
