"""The profile for our launcher, read by AppArmor's own parser; nothing is loaded."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from backends.bubblewrap.needs import NEEDS
from backends.needs import NeedKind
from mxc_ops.prep.rules.apparmor import profile_text

PARSER = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin")
# The switch that makes a profile necessary came with AppArmor 4, and so did the rule `userns`.
HAS_PARSER = PARSER is not None and Path("/etc/apparmor.d/abi/4.0").exists()
needs_parser = pytest.mark.skipif(not HAS_PARSER, reason="needs AppArmor ≥ 4: apt-get install apparmor")


@pytest.fixture
def profile() -> str:
    (need,) = [need for need in NEEDS if need.kind is NeedKind.APPARMOR_PROFILE]
    return profile_text(need.data["path"], need.data["program"])


def parse(folder: Path, *arguments: str, text: str) -> subprocess.CompletedProcess[str]:
    assert PARSER is not None
    path = folder / "profile"
    path.write_text(text)
    argv = [PARSER, "--skip-kernel-load", "--skip-cache", *arguments, path]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@needs_parser
def test_the_parser_takes_it(tmp_path: Path, profile: str) -> None:
    done = parse(tmp_path, text=profile)
    assert done.returncode == 0, done.stderr


@needs_parser
def test_it_has_the_name_that_the_doctor_looks_for(tmp_path: Path, profile: str) -> None:
    assert parse(tmp_path, "--names", text=profile).stdout == "mxc-ops-launcher\n"


@needs_parser
def test_the_parser_would_find_a_mistake_in_it(tmp_path: Path, profile: str) -> None:
    assert parse(tmp_path, text=profile.replace("userns,", "usernss,")).returncode != 0
