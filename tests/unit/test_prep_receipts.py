"""Receipts: what is read back from a host, and what becomes of one after further changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from backends import registry
from backends.needs import FEATURES
from mxc_ops.prep.choices import Choices
from mxc_ops.prep.items import needs_of
from mxc_ops.prep.receipts import (
    FORMERLY,
    PENDING,
    Receipt,
    Unreadable,
    decode,
    merged,
    readings,
    texts_by_item,
)
from mxc_ops.prep.undoing import trouble, unmeasured

WHOLE = Receipt(
    "bubblewrap.package.bwrap",
    "packages.installed",
    {"packages": ["bubblewrap"], "family": "debian"},
    made={"asked": ["bubblewrap"], "added": ["bubblewrap"]},
    at="2026-01-02T03:04:05Z",
    by="root@there",
)
TEXTS = some.dictionaries(some.text(), some.text() | some.lists(some.text()) | some.none())


def document(**changes: Any) -> str:
    return json.dumps({**json.loads(WHOLE.encode()), **changes})


@given(TEXTS, TEXTS, some.text())
def test_what_is_written_is_read_back(arguments: dict[str, Any], prior: dict[str, Any], by: str) -> None:
    receipt = Receipt("an.item", "an.operation", arguments, prior, {"x": arguments}, PENDING, "now", by)
    assert decode(receipt.encode()) == receipt


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "/"),
        ("{", "/"),
        ("[]", "/"),
        ("\0", "/"),
        (document(schemaVersion=2), "/schemaVersion"),
        (document(schemaVersion="1"), "/schemaVersion"),
        (document(state="half"), "/state"),
        (document(item=7), "/item"),
        (document(made=["added"]), "/made"),
        (document(prior=None), "/prior"),
        (document(unknown=1), "/unknown"),
        (json.dumps(asdict(WHOLE)), "/schemaVersion"),
    ],
)
def test_what_cannot_be_understood_is_told_by_its_place(text: str, place: str) -> None:
    with pytest.raises(Unreadable) as error:
        decode(text)
    assert str(error.value).startswith(f"{place}: ")


@pytest.mark.parametrize(("item", "former"), FORMERLY.items())
def test_what_was_recorded_under_an_earlier_name_is_of_the_item_that_is_called_otherwise_now(
    item: str, former: str
) -> None:
    known = {need.identifier for need in needs_of(Choices(tuple(registry.preparable()), FEATURES))}
    assert item in known and former not in known
    assert decode(document(item=former)).item == item
    assert texts_by_item({"a.b": "1", former: "2"}) == {"a.b": "1", item: "2"}
    assert texts_by_item({item: "3", former: "2"}) == {item: "3"}


# --- a further change to the same item


def change(made: dict[str, Any], prior: dict[str, Any], **fields: Any) -> Receipt:
    return Receipt("an.item", "an.operation", fields.pop("arguments", {}), prior, made, **fields)


def test_the_first_change_is_recorded_as_it_is() -> None:
    assert merged(None, WHOLE) is WHOLE


def test_the_way_back_leads_to_before_the_first_change() -> None:
    first = change({"text": "one"}, {"text": "mine"}, at="1", by="eve")
    second = change({"text": "two"}, {"text": "one"}, at="2", by="bob", arguments={"x": 2})
    after = merged(first, second)
    assert after.prior == {"text": "mine"}
    assert [reading.made for reading in readings(after)] == [{"text": "two"}]
    assert (after.arguments, after.at, after.by) == ({"x": 2}, "2", "bob")


def test_what_was_added_bit_by_bit_adds_up() -> None:
    first = change({"added": ["b", "a"], "kept": "x"}, {})
    after = merged(first, change({"added": ["a", "c"], "removed": ["z"]}, {}))
    assert after.made == {"added": ["b", "a", "c"], "kept": "x", "removed": ["z"]}
    assert first.made == {"added": ["b", "a"], "kept": "x"}


def test_a_further_change_that_did_not_complete_may_have_left_what_was_there() -> None:
    first = change({"text": "one", "mode": "755", "added": ["a"]}, {})
    second = merged(first, change({"text": "two", "mode": "755"}, {}, state="failed"))
    assert [reading.made for reading in readings(second)] == [
        {"text": "two", "mode": "755", "added": ["a"]},
        {"text": "one", "mode": "755", "added": ["a"]},
    ]
    third = merged(second, change({"text": "three"}, {}, state="pending"))
    assert [reading.made["text"] for reading in readings(third)] == ["three", "one", "two"]
    complete = merged(third, change({"text": "four"}, {}))
    assert [reading.made["text"] for reading in readings(complete)] == ["four"]
    fifth = merged(complete, change({"text": "five"}, {}, state="pending"))
    assert [reading.made["text"] for reading in readings(fifth)] == ["five", "four"]


def test_a_first_change_without_a_prior_does_not_hide_the_second_ones() -> None:
    assert merged(change({}, {}), change({}, {"value": "0"})).prior == {"value": "0"}


def test_what_a_second_change_is_the_first_to_touch_goes_back_to_before_it() -> None:
    """A bridge that was made without a service manager, and again with one."""
    first = change({"files": {}}, {"files": {}, "directories": ["/a"]})
    later = {"files": {"/a/x": None, "/b/y": "theirs"}, "directories": ["/a", "/b"]}
    second = merged(first, change({"files": {"/a/x": "one", "/b/y": "two"}}, later))
    assert second.prior == later
    third = change({}, {"files": {"/a/x": "one", "/c": None}, "directories": []})
    assert merged(second, third).prior["files"] == {"/a/x": None, "/b/y": "theirs", "/c": None}


# --- whether it can be acted upon


def test_a_receipt_of_our_own_can_be_acted_upon() -> None:
    assert trouble(WHOLE.item, WHOLE) == ""


@pytest.mark.parametrize(
    ("item", "changes"),
    [
        ("another.item", {}),
        (WHOLE.item, {"operation": "packages.divined"}),
        (WHOLE.item, {"operation": "os.system"}),
        (WHOLE.item, {"operation": ""}),
        (WHOLE.item, {"arguments": {}}),
        (WHOLE.item, {"arguments": {**WHOLE.arguments, "more": 1}}),
        (WHOLE.item, {"arguments": {"packages": 7, "family": "debian"}}),
    ],
)
def test_a_receipt_that_nothing_here_has_made_cannot(item: str, changes: dict[str, Any]) -> None:
    assert trouble(item, decode(document(**changes)))


def test_a_change_that_was_interrupted_before_it_was_measured_is_let_end_first() -> None:
    interrupted = decode(document(state=PENDING, made={"asked": ["bubblewrap"]}))
    refused = unmeasured(interrupted)
    assert refused is not None
    assert refused.refusal and not refused.commands
    assert "mxc-ops prep host --backend bubblewrap --item bubblewrap.package.bwrap --yes" in refused.fix
    assert unmeasured(WHOLE) is None


def test_a_change_that_failed_can_be_taken_back_as_it_was_measured() -> None:
    assert unmeasured(decode(document(state="failed", made={"asked": ["x"], "added": []}))) is None


def test_a_change_that_is_known_beforehand_can_be_taken_back_from_any_state() -> None:
    text = Receipt("a.b", "files.text", {"path": "/x", "content": ""}, {"text": None}, {}, PENDING)
    assert unmeasured(text) is None
