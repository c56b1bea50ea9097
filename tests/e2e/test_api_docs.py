"""The examples of the pages about the Python API and about sessions run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.backend("bubblewrap")
BIN = Path(sys.executable).parent


def _blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def _page_of_sessions(checkout: Path) -> str:
    """With names that no other run of these tests has."""
    page = (checkout / "docs/sessions.md").read_text()
    run = os.urandom(8).hex()
    return re.sub(r'\b(builder|short)\b(?!\.)|(?<=")kept(?=")', lambda found: f"{found[0]}-{run}", page)


@pytest.mark.parametrize("name", ["python-api.md", "sessions.md"])
def test_the_pages_examples_run_in_order(checkout: Path, name: str) -> None:
    page = _page_of_sessions(checkout) if name == "sessions.md" else (checkout / "docs" / name).read_text()
    examples = _blocks(page, "python")
    assert len(examples) >= 6
    names: dict[str, Any] = {"__name__": "example"}
    for number, example in enumerate(examples, 1):
        exec(compile(example, f"{name} example {number}", "exec"), names)


def test_the_commands_of_sessions_succeed_in_order(checkout: Path, tmp_path: Path) -> None:
    page = _page_of_sessions(checkout)
    lines = "".join(_blocks(page, "console")).splitlines()
    assert len(lines) >= 30 and all(line.startswith("$ ") for line in lines)
    try:
        done = _shell("\n".join(line[2:] for line in lines), tmp_path)
        assert done.returncode == 0, done.stderr
        fetched = (tmp_path / "fetched/stdio.h").read_bytes()
        assert fetched == Path("/usr/include/stdio.h").read_bytes()
    finally:
        for name in set(re.findall(r"--name ((?:builder|short)\S+)", page)):
            _shell(f"mxc-ops session deprovision {name}", tmp_path)


def _shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-ec", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )
