"""Our JSON Schemas say what the loader does, and importing the front of the loader costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from backends.errors import ConfigError
from mxc_ops.config.document import Strictness
from mxc_ops.config.loader import load
from mxc_ops.config.models.editions import CONTRACTS
from mxc_ops.config.schema_export import schema_for
from tests.unit import instances
from tests.unit.config_cases import one_shot


def _loads(document: Any, strictness: Strictness) -> bool:
    try:
        load(json.dumps(document).encode(), strictness=strictness)
    except ConfigError:
        return False
    return True


def _holds_float(document: Any) -> bool:
    """JSON Schema takes 1.0 for an integer, the loader does not: such documents say nothing here."""
    return any(
        isinstance(value, float)
        for place in instances.containers(document)
        for value in (place if isinstance(place, list) else place.values())
    )


@pytest.mark.parametrize("version", CONTRACTS)
def test_our_schema_and_the_contract_check_agree(version: str, soak: bool) -> None:
    schema = schema_for(version)
    validator = Draft202012Validator(schema)

    @settings(
        max_examples=1000 if soak else 100,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(instances.documents({**schema, "definitions": schema["$defs"]}, version))
    def agree(document: dict[str, Any]) -> None:
        if not _holds_float(document):
            assert validator.is_valid(document) is _loads(document, Strictness.CONTRACT)  # pyright: ignore[reportUnknownMemberType]

    agree()


@pytest.mark.parametrize("version", CONTRACTS)
@pytest.mark.parametrize("with_extension", [False, True])
def test_each_schema_is_a_closed_2020_12_schema_with_an_id_of_our_own(
    version: str, with_extension: bool
) -> None:
    schema = schema_for(version, with_extension=with_extension)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"].startswith(f"urn:mxc-ops:schema:{version}")
    assert all(shape["additionalProperties"] is False for shape in schema["$defs"].values())
    assert ("MxcOps" in schema["$defs"]) is with_extension
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("version", CONTRACTS)
@given(
    pids=st.integers(1, 100),
    args=st.booleans(),
    shell=st.booleans(),
    vm=st.fixed_dictionaries(
        {},
        optional={
            "image": st.sampled_from(["python", "a.b_c-1", "/a", "", "-a", "A"]),
            "memoryMib": st.sampled_from([95, 96, 65536, 65537]),
            "command": st.sampled_from(["shell", "args", "python"]),
        },
    ),
)
@settings(max_examples=16)
def test_the_schema_with_our_extension_takes_what_the_default_takes(
    version: str, pids: int, args: bool, shell: bool, vm: dict[str, Any]
) -> None:
    validator = Draft202012Validator(schema_for(version, with_extension=True))
    document = one_shot(version, mxcOps={"limits": {"pids": pids}, "vm": vm})
    if args:
        document["mxcOps"]["args"] = ["true"]
    if not shell:
        document["process"] = {"cwd": "/"}
    assert validator.is_valid(document) is _loads(document, Strictness.RANGED)  # pyright: ignore[reportUnknownMemberType]
    if not vm:
        assert _loads(document, Strictness.RANGED) is (args is not shell)


def test_a_schema_of_no_version_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"there is no schema of version '0\.3\.0'"):
        schema_for("0.3.0")


@pytest.mark.parametrize("module", ["document", "text", "loader", "schema_export"])
def test_importing_a_module_loads_no_validator(module: str) -> None:
    program = f"import sys, mxc_ops.config.{module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert f"mxc_ops.config.{module}" in loaded
    assert not loaded & {"pydantic", "pydantic_core", "difflib", "ipaddress", "urllib.parse", "subprocess"}


def test_loading_a_document_needs_only_the_core_of_pydantic() -> None:
    program = (
        "import sys\nfrom mxc_ops.config.loader import load\n"
        'load(b\'{"process": {"commandLine": "true"}}\')\nprint(*sys.modules)'
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert "pydantic_core" in loaded
    assert not loaded & {"pydantic", "difflib", "mxc_ops.config.explain"}
