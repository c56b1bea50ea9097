"""The two commands on a machine that has nothing yet. Needs root and minutes: a soak test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import fresh_machine

CHECKOUT_INSIDE = "/srv/checkout"
pytestmark = [pytest.mark.soak, pytest.mark.backend("bubblewrap")]


@pytest.fixture(scope="module")
def machine(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: to build a Debian and to enter it")
    root = tmp_path_factory.mktemp("fresh") / "root"
    fresh_machine.build(root)
    ignored = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache")
    shutil.copytree(checkout, root / CHECKOUT_INSIDE[1:], ignore=ignored)
    yield root
    shutil.rmtree(root)


def test_quickstart_takes_a_fresh_machine_to_a_sandbox_and_then_changes_nothing(machine: Path) -> None:
    first = fresh_machine.run(machine, [f"{CHECKOUT_INSIDE}/quickstart"], timeout_s=600)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "denied path below it     cannot be read" in first.stdout
    assert "bubblewrap.package.bwrap        changed" in first.stdout
    assert "\x1b" not in first.stdout + first.stderr

    second = fresh_machine.run(machine, [f"{CHECKOUT_INSIDE}/quickstart"], timeout_s=60)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "changed" not in second.stdout.replace("nothing changed", "").replace("unchanged", "")


def test_quickstart_without_rights_names_the_command_and_stops(machine: Path) -> None:
    command = ["setpriv", "--reuid=61234", "--regid=61234", "--clear-groups", f"{CHECKOUT_INSIDE}/quickstart"]
    shutil.rmtree(machine / CHECKOUT_INSIDE[1:] / ".venv", ignore_errors=True)
    stopped = fresh_machine.run(machine, ["rm", "-rf", "/usr/lib/python3.11/ensurepip"], timeout_s=60)
    assert stopped.returncode == 0
    stopped = fresh_machine.run(machine, command, timeout_s=60)
    assert stopped.returncode == 1
    assert "fix:   sudo apt-get update && sudo apt-get install -y" in stopped.stderr
