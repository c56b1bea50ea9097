"""Bytes that are no document: one clear error each. Limits: issue "Config documents"."""

from __future__ import annotations

import json

import pytest

from backends.errors import ConfigError
from mxc_ops.config.text import MAX_BYTES, MAX_DEPTH, parse
from tests.unit.config_cases import problems, signs


def nested(depth: int) -> bytes:
    return b'{"_comment":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b'{"version": "1.0.0"', "invalid_json"),
        (b'{"version": "1.0', "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b"{'a': 1}", "invalid_json"),
        (b'{"a": 1,}', "invalid_json"),
        (b'{"a": "\x00"}', "invalid_json"),
        (b'{"a": "\xff"}', "not_utf8"),
        (b'{"a": "\xed\xa0\x80"}', "not_utf8"),
        ('{"a": 1}'.encode("utf-16"), "not_utf8"),
        (b'\xef\xbb\xbf{"version": "1.0.0"}', "byte_order_mark"),
        (b"[]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"null", "not_an_object"),
        (b"1", "not_an_object"),
        (b" " * (MAX_BYTES + 1), "too_large"),
        (nested(MAX_DEPTH + 1), "too_deep"),
        (b"[" * 500_000, "too_deep"),
    ],
)
def test_what_is_no_json_object_is_refused_at_its_root(source: bytes, code: str) -> None:
    assert signs(source) == {(code, "")}


@pytest.mark.parametrize(
    ("source", "code", "pointer"),
    [
        (b'{"a": 1, "a": 2}', "duplicate_key", "/a"),
        (b'{"a": [{"b/c": {"d": 1, "d": 1}}]}', "duplicate_key", "/a/0/b~1c/d"),
        (rb'{"a": 1, "\u0061": 2}', "duplicate_key", "/a"),
        (rb'{"a": ["x\u0000y"]}', "nul_character", "/a/0"),
        (rb'{"a": {"x\u0000": 1}}', "nul_character", r"/a/x\u0000"),
        (rb'{"a": "\ud83d"}', "lone_surrogate", "/a"),
        (rb'{"\udc00": 1}', "lone_surrogate", r"/\udc00"),
        (b'{"a": 1e999}', "unusable_number", "/a"),
        (b'{"a": NaN}', "unusable_number", "/a"),
        (b'{"a": [-Infinity]}', "unusable_number", "/a/0"),
        (b'{"a": ' + b"9" * 5000 + b"}", "unusable_number", "/a"),
    ],
)
def test_a_place_that_two_readers_would_read_differently_is_named(
    source: bytes, code: str, pointer: str
) -> None:
    assert signs(source) == {(code, pointer)}


def test_all_duplicates_are_reported_at_once() -> None:
    found = signs(b'{"a": {"x": 1, "x": 1}, "b": [{"y": 1, "y": 1, "y": 1}], "a": 0}')
    assert found == {("duplicate_key", "/a"), ("duplicate_key", "/a/x"), ("duplicate_key", "/b/0/y")}


def test_what_is_at_a_limit_is_still_read() -> None:
    padding = b" " * (MAX_BYTES - len(nested(MAX_DEPTH)))
    assert parse(nested(MAX_DEPTH) + padding) == json.loads(nested(MAX_DEPTH))
    assert parse(b'{"a": 18446744073709551615}') == {"a": 2**64 - 1}
    assert parse(rb'{"a": "\ud83d\ude00 \\u0000"}') == {"a": "\U0001f600 \\u0000"}


def test_brackets_inside_strings_are_no_depth() -> None:
    assert parse(json.dumps({"a": ["[{" * 200, '\\"[']}).encode()) == {"a": ["[{" * 200, '\\"[']}


def test_a_truncated_document_is_said_to_end_too_early() -> None:
    (problem,) = problems(b'{"process": {"commandLine": "true"}')
    assert "line 1 column" in problem.message
    assert "too early" in problem.fix
    (problem,) = problems(b'{"process": {"commandLine": "tr')
    assert problem.message == "not valid JSON: Unterminated string starting at line 1 column 29"
    assert "too early" in problem.fix


def test_a_document_is_never_a_traceback_however_it_is_cut() -> None:
    whole = (
        b'{"version":"0.8.0-alpha","process":{"commandLine":"echo \xc3\xbc","env":["A=\\u00fc"],"timeout":1}}'
    )
    for end in range(len(whole)):
        with pytest.raises(ConfigError):
            parse(whole[:end])
