"""What importing the API costs, and that its names are what they should be."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mxc_ops


def modules_after(statement: str) -> set[str]:
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_else():
    assert modules_after("import mxc_ops") == {"mxc_ops", "__future__"}


@pytest.mark.parametrize("name", ["asyncio", "subprocess", "pydantic", "threading", "dataclasses", "hashlib"])
def test_running_a_request_imports_nothing_heavy(name: str):
    assert name not in modules_after("import mxc_ops; mxc_ops.run; mxc_ops.prepare")


@pytest.mark.parametrize("name", mxc_ops.__all__)
def test_every_public_name_is_there_and_is_no_module(name: str):
    assert callable(getattr(mxc_ops, name))


def test_run_stays_the_function_after_the_modules_were_imported():
    import mxc_ops.one_shot
    import mxc_ops.one_shot_async

    assert mxc_ops.run is mxc_ops.one_shot.run
    assert mxc_ops.arun is mxc_ops.one_shot_async.arun


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        mxc_ops.frobnicate  # noqa: B018


def test_the_version_is_the_projects(checkout: Path):
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    assert mxc_ops.__version__ == project["version"]
