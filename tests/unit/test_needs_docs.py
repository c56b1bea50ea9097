"""The docs list what prep satisfies: one list, three readers."""

from __future__ import annotations

from pathlib import Path

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
