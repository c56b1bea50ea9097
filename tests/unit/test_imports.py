"""What the commands may import: start-up is where their time goes.

Each test runs the command in a fresh interpreter and looks at what it imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

# None of these is needed by any command that runs a sandbox, however it is called.
NEVER = frozenset(
    {"asyncio", "dask", "fabric", "gevent", "invoke", "libvirt", "multiprocessing", "paramiko", "pyinfra"}
)
# What a run of a document seen before must do without: each costs milliseconds of its 60.
HOT = NEVER | frozenset(
    {
        *("argparse", "asyncio", "base64", "dataclasses", "gettext", "hashlib", "inspect", "ipaddress"),
        *("jsonschema", "logging", "pydantic", "pydantic_core", "random", "rich", "shutil", "socket"),
        *("subprocess", "tempfile", "typing_extensions", "unicodedata", "urllib", "uuid"),
    }
)

_LISTING = """
import sys
before = set(sys.modules)
from {module} import main
code = main({arguments!r})
sys.stdout.flush()
with open({listing!r}, "w") as file:
    file.write("\\n".join(sorted(set(sys.modules) - before)))
sys.exit(code)
"""


def imported_by(
    tmp_path: Path, checkout: Path, module: str, arguments: Sequence[str], exit_code: int = 0
) -> frozenset[str]:
    """Top-level names and full names of the modules that a command imports."""
    listing = tmp_path / "modules"
    source = _LISTING.format(module=module, arguments=list(arguments), listing=str(listing))
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(checkout)}
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, check=False)
    assert done.returncode == exit_code, done.stderr.decode()
    names = listing.read_text().splitlines()
    return frozenset(names) | {name.partition(".")[0] for name in names}


def config(tmp_path: Path, **fields: Any) -> str:
    path = tmp_path / "config.json"
    grants = {"readonlyPaths": ["/usr/share"], "deniedPaths": ["/usr/share/doc"]}
    body = {"version": "1.0.0", "process": {"commandLine": "true"}, "filesystem": grants} | fields
    path.write_text(json.dumps(body))
    return str(path)


@pytest.mark.backend("bubblewrap")
def test_mxc_exec_with_a_document_seen_before(tmp_path: Path, checkout: Path) -> None:
    path = config(tmp_path)
    first = imported_by(tmp_path, checkout, "mxc_ops.cli.exec_compat", [path])
    again = imported_by(tmp_path, checkout, "mxc_ops.cli.exec_compat", [path])
    assert "mxc_ops.config.loader" in first, "the first look validates"
    assert "mxc_ops.config.loader" not in again, "the verdict was not found again"
    assert not again & HOT


@pytest.mark.backend("bubblewrap")
def test_mxc_exec_with_a_document_never_seen(tmp_path: Path, checkout: Path) -> None:
    seen = imported_by(tmp_path, checkout, "mxc_ops.cli.exec_compat", [config(tmp_path)])
    assert not seen & (NEVER | {"argparse", "jsonschema", "rich", "subprocess"})


@pytest.mark.backend("bubblewrap")
def test_mxc_ops_run_of_a_command(tmp_path: Path, checkout: Path) -> None:
    seen = imported_by(tmp_path, checkout, "mxc_ops.cli", ["run", "--ro", "/usr/share", "--", "true"])
    assert not seen & (NEVER | {"jsonschema", "pydantic", "pydantic_core", "rich", "subprocess"})


@pytest.mark.backend("bubblewrap")
def test_mxc_ops_run_of_a_config_seen_before(tmp_path: Path, checkout: Path) -> None:
    path = config(tmp_path)
    imported_by(tmp_path, checkout, "mxc_ops.cli", ["run", path])
    again = imported_by(tmp_path, checkout, "mxc_ops.cli", ["run", path])
    assert not again & (NEVER | {"jsonschema", "pydantic", "pydantic_core", "rich", "subprocess"})


def test_help_imports_argparse_and_our_own_few(tmp_path: Path, checkout: Path) -> None:
    seen = imported_by(tmp_path, checkout, "mxc_ops.cli", ["--help"])
    ours = {name for name in seen if name.startswith(("mxc_ops.", "backends.", "vm_images"))}
    assert ours == {
        *("mxc_ops.cli", "mxc_ops.cli.output", "mxc_ops.cli.streams", "mxc_ops.cli.text"),
        "backends.errors",
    }
    assert not seen & (HOT - {"argparse", "gettext"})


def test_a_groups_help_imports_no_other_group(tmp_path: Path, checkout: Path) -> None:
    seen = imported_by(tmp_path, checkout, "mxc_ops.cli", ["config", "--help"])
    groups = {"run", "plan", "config", "backends", "doctor", "prep"}
    assert {name for name in groups if f"mxc_ops.cli.{name}" in seen} == {"config"}
    assert not seen & (NEVER | {"pydantic", "rich", "subprocess"})


def test_the_help_of_mxc_exec_imports_next_to_nothing(tmp_path: Path, checkout: Path) -> None:
    seen = imported_by(tmp_path, checkout, "mxc_ops.cli.exec_compat", ["--help"])
    assert not seen & (HOT | {"mxc_ops.config", "mxc_ops.one_shot", "backends.bubblewrap"})
