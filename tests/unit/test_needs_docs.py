"""The docs list what prep satisfies: one list, three readers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from backends import registry
from backends.needs import FEATURES
from mxc_ops.prep import needs_table


def test_the_document_is_what_the_lists_say(checkout: Path) -> None:
    written = (checkout / "docs/needs.md").read_text()
    assert written == needs_table.markdown(), "run: mxc-ops prep needs --markdown > docs/needs.md"


def test_an_identifier_means_one_thing() -> None:
    meanings = {(row.item, row.kind, row.what) for row in needs_table.rows()}
    assert len({item for item, *_ in meanings}) == len(meanings)


def test_every_feature_can_be_asked_for() -> None:
    assert {row.feature for row in needs_table.rows()} - {"", *FEATURES} == set()


def test_every_need_says_why() -> None:
    assert [row.item for row in needs_table.rows() if not row.why or row.why.endswith(".")] == []


def test_the_readme_names_what_a_host_can_be_prepared_for(checkout: Path) -> None:
    section = (checkout / "README.md").read_text().partition("## Preparing hosts")[2].partition("\n## ")[0]
    assert [name for name in registry.preparable() if f"`{name}`" not in section] == []


@pytest.mark.parametrize("path", [("prep", "host"), ("prep", "verify"), ("prep", "undo"), ("prep", "needs")])
def test_the_document_of_the_command_line_names_every_flag_of_preparation(
    path: tuple[str, ...], checkout: Path
) -> None:
    shown = subprocess.run(
        [Path(sys.executable).parent / "mxc-ops", *path, "--help"], capture_output=True, text=True, check=True
    ).stdout
    written = (checkout / "docs/cli.md").read_text()
    flags = set(re.findall(r"^  (--[a-z-]+)", shown, re.MULTILINE)) - {"--help"}
    assert flags
    assert {flag for flag in flags if f"`{flag}" not in written and f" {flag}" not in written} == set()


def test_every_feature_needs_something_or_is_known_to_need_nothing() -> None:
    # The kernel's: see `backends.bubblewrap.needs`.
    assert set(FEATURES) - {row.feature for row in needs_table.rows()} == {"landlock"}
