"""Fixes of this host: what can be pasted by root, and by a user who has sudo."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mxc_ops.fixes import for_this_host

DOCTOR = "mxc-ops doctor --backend lxc"
PREPARE = "mxc-ops prep host --backend lxc --yes"
LOG = "dmesg | grep -i kvm"


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment that is on nobody's search path."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mxc-ops").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python3"))
    return tmp_path


@pytest.mark.parametrize(
    ("fix", "privilege", "pasted"),
    [
        (DOCTOR, "root", "sudo {venv}/bin/mxc-ops doctor --backend lxc"),
        (DOCTOR, "none", DOCTOR),
        (PREPARE, "root", PREPARE),  # it finds its own way to root's rights
        ("modprobe kvm_intel", "root", "sudo modprobe kvm_intel"),
        (LOG, "root", f"sudo sh -c '{LOG}'"),
        ("", "root", ""),
        ("", "whoever starts the container", ""),
    ],
)
def test_a_user_gets_a_command_that_has_the_rights(
    venv: Path, monkeypatch: pytest.MonkeyPatch, fix: str, privilege: str, pasted: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert for_this_host(fix, privilege) == pasted.format(venv=venv)


@pytest.mark.parametrize("fix", [DOCTOR, PREPARE, LOG])
def test_root_needs_no_sudo(monkeypatch: pytest.MonkeyPatch, fix: str) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert for_this_host(fix, "root") == fix
