"""The README's examples are true: its JSON is run, its commands are run, its Python is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent

pytestmark = pytest.mark.backend("bubblewrap")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(blocks("json")[0])
    return tmp_path


@pytest.mark.parametrize("command", commands())
def test_commands_succeed(command: str, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env=environment, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_config_says_hello_and_sees_no_files_of_the_host(folder: Path) -> None:
    done = subprocess.run(
        [BIN / "mxc-ops", "run", "config.json"], cwd=folder, capture_output=True, check=False, text=True
    )
    assert done.stdout == "hello from sandbox\n"


@pytest.mark.parametrize("block", blocks("python"))
def test_python_examples_run(block: str) -> None:
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_two_commands_exist() -> None:
    for line in (line for block in blocks("sh") for line in block.splitlines()):
        assert os.access(ROOT / line, os.X_OK), line
