"""Frames of an interpreter in a guest: whole or refused, however they come."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.inside import cells, cells_calls
from mxc_ops.hyperlight import frames
from mxc_ops.hyperlight.frames import Breach, FrameReader, Kind, as_json, encode, read_object

_GUESTS = [Kind.READY, Kind.STDOUT, Kind.STDERR, Kind.CALL, Kind.DONE]
_FRAMES = st.lists(st.tuples(st.sampled_from(_GUESTS), st.binary(max_size=900)), max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


def read(data: bytes, cuts: list[int]) -> list[tuple[Kind, bytes]]:
    reader, found = FrameReader(), list[tuple[Kind, bytes]]()
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(places):
        found += reader.feed(data[start:end])
    return found


@given(_FRAMES, st.lists(st.integers(min_value=0), max_size=6))
def test_frames_are_the_same_in_whatever_pieces_they_come(
    sent: list[tuple[Kind, bytes]], cuts: list[int]
) -> None:
    assert read(b"".join(encode(kind, content) for kind, content in sent), cuts) == sent


@given(st.binary(max_size=3000), st.lists(st.integers(min_value=0), max_size=6))
def test_whatever_comes_is_a_frame_or_refused_and_no_more_is_held_than_one(
    data: bytes, cuts: list[int]
) -> None:
    with suppress(Breach):
        for kind, content in read(data, cuts):
            assert kind in _GUESTS and len(content) <= frames.MAX_MESSAGE


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        *((0, 0), (ord("X"), 1), (ord("A"), 1), (ord("S"), 1), (255, 1), (ord("o"), 65537)),
        *((ord("R"), 1001), (ord("C"), (4 << 20) + 1), (ord("D"), 2**32 - 1)),
    ],
)
def test_what_an_interpreter_may_not_send_is_refused_by_its_header_alone(kind: int, length: int) -> None:
    with pytest.raises(Breach):
        list(FrameReader().feed(frames.HEADER.pack(length, kind)))


@given(_JSON)
def test_json_of_ours_is_read_again(value: Any) -> None:
    assert read_object(as_json({"value": value})) == {"value": value}


@given(st.text(alphabet='[]{}",:\\ 1a', max_size=60))
def test_depth_is_that_of_brackets_outside_of_texts(text: str) -> None:
    """Where it is JSON at all, against a count of the values themselves."""
    with suppress(ValueError):
        value = json.loads(text)
        assert frames._depth(text.encode()) == _deep(value)  # pyright: ignore[reportPrivateUsage]


def _deep(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    inner: list[Any] = list(value.values()) if isinstance(value, dict) else value  # pyright: ignore
    return 1 + max(map(_deep, inner), default=0)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "[]",
            "1",
            '"x"',
            "{",
            '{"a":NaN}',
            '{"a":Infinity}',
            '{"a":1e999}',
            '{"a":' + "9" * 5000 + "}",
        ),
        *('{"a":' + "[" * 101 + "]" * 101 + "}", "[" * 100_000, '{"a":' * 100_000, '"' + "\\" * 99_999),
    ],
)
def test_what_is_no_plain_object_is_refused(text: str) -> None:
    with pytest.raises(Breach):
        read_object(text.encode())
    with pytest.raises(Breach):
        read_object(text.encode() + b"\xff")


def test_what_json_does_not_hold_is_refused() -> None:
    deep: Any = []
    for _ in range(frames.MAX_DEPTH):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    for value in (float("nan"), object(), {1, 2}, b"x", "x" * frames.MAX_MESSAGE, deep, endless):
        with pytest.raises(ValueError, match=r"."):
            as_json(value)


def test_both_sides_mean_the_same() -> None:
    assert (cells.VERSION, cells_calls.MAX_MESSAGE) == (frames.VERSION, frames.MAX_MESSAGE)
    assert cells_calls.HEADER.format == frames.HEADER.format
