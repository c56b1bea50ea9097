"""Where the native driver of Hyperlight takes its packages from, and which it does not run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from backends.hyperlight.native import packages
from backends.hyperlight.native.packages import examine, find_packages
from backends.hyperlight.needs import REQUIREMENTS
from tests.hyperlight_packages import installed, pretended


def site(environment: Path) -> Path:
    return next(environment.glob("lib/python3*/site-packages"), environment)


def make_ours(monkeypatch: pytest.MonkeyPatch, environment: Path) -> None:
    """As if mxc-ops was installed there."""
    monkeypatch.setattr(sys, "path", [str(site(environment)), *sys.path])
    monkeypatch.setattr(sys, "prefix", str(environment))
    monkeypatch.setattr(sys, "executable", str(environment / "bin/python3"))


def make_preps(monkeypatch: pytest.MonkeyPatch, environment: Path) -> None:
    monkeypatch.setattr(packages, "ENVIRONMENT", str(environment))


def test_the_installed_packages_are_known() -> None:
    found, why = examine(str(installed()))
    assert found is not None, why
    assert found.versions == REQUIREMENTS
    folders = {place.inside: Path(place.path) for place in found.places}
    assert (folders["/packages/python_guest"] / "resources/python-sandbox.aot").stat().st_size > 1 << 20
    assert Path(found.interpreter).resolve() == Path(found.interpreter)


def test_those_of_our_own_environment_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preps, ours = pretended(tmp_path / "preps"), pretended(tmp_path / "ours")
    make_preps(monkeypatch, preps)
    make_ours(monkeypatch, tmp_path / "without")
    found, _ = find_packages()
    assert found is not None and found.environment == str(tmp_path / "preps")
    make_ours(monkeypatch, ours)
    found, _ = find_packages()
    assert found is not None and found.environment == str(tmp_path / "ours")


def test_others_than_those_that_we_know_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ours(monkeypatch, pretended(tmp_path / "ours"))
    (info,) = site(tmp_path / "ours").glob("hyperlight_sandbox-*")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hyperlight-sandbox\nVersion: 9.9\n")
    make_preps(monkeypatch, tmp_path / "preps")
    found, why = find_packages()
    assert found is None
    assert why == f"{tmp_path}/ours lacks {REQUIREMENTS[0]}; there is no {tmp_path}/preps"
    make_preps(monkeypatch, pretended(tmp_path / "other"))
    found, _ = find_packages()
    assert found is not None and found.environment == str(tmp_path / "other")


def test_what_changes_in_an_environment_is_noticed(tmp_path: Path) -> None:
    environment = pretended(tmp_path / "environment")
    assert examine(str(environment))[0] is not None
    (site(environment) / "hyperlight_sandbox").rename(tmp_path / "away")
    found, why = examine(str(environment))
    assert found is None
    assert why.startswith("they cannot be imported: ModuleNotFoundError: ")


def test_packages_that_lack_the_guests_program_are_not_taken(tmp_path: Path) -> None:
    environment = pretended(tmp_path / "environment")
    (site(environment) / "python_guest/resources/python-sandbox.aot").unlink()
    found, why = examine(str(environment))
    assert found is None
    assert why.startswith("they are not all there: ") and "python-sandbox.aot" in why


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_an_environment_that_others_may_write_to_is_not_run(tmp_path: Path, mode: int) -> None:
    environment = pretended(tmp_path / "environment")
    (environment / "bin/python3").unlink()
    (environment / "bin/python3").write_text(f"#!/bin/sh\ntouch {tmp_path}/run\n")
    (environment / "bin/python3").chmod(0o755)
    environment.chmod(mode)
    found, why = examine(str(environment))
    assert (found, why) == (None, f"{environment} is not a directory that only root may write to")
    assert not (tmp_path / "run").exists()


def test_a_link_to_an_environment_is_none(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pretended(tmp_path / "environment"))
    assert examine(str(tmp_path / "link"))[0] is None
