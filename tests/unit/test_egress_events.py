"""What the proxy tells of its decisions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.egress.events import Events


class Reader:
    """The other end of a pipe, and a clock that stands still until it is set."""

    def __init__(self) -> None:
        self.fd, self.writing = os.pipe()
        self.now = 0.0
        self.events = Events(self.writing, lambda: 1_700_000_000.25, lambda: self.now)

    def lines(self) -> list[dict[str, Any]]:
        os.set_blocking(self.fd, False)
        text = b""
        try:
            while portion := os.read(self.fd, 1 << 20):
                text += portion
        except BlockingIOError:
            pass
        return [json.loads(line) for line in text.splitlines()]

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.writing)


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.close()


def test_a_line_has_what_is_known_and_the_time(reader: Reader) -> None:
    reader.events.write(
        "allowed", "http", id=7, name="a.test", address=None, rule="", method="GET", bytesIn=0
    )
    assert reader.lines() == [
        {
            **{"ts": "2023-11-14T22:13:20.250Z", "source": "proxy", "verdict": "allowed", "protocol": "http"},
            **{"id": 7, "name": "a.test", "method": "GET", "bytesIn": 0},
        }
    ]


@given(st.text())
def test_whatever_a_client_calls_a_host_stays_one_short_line(name: str) -> None:
    reader = Reader()
    reader.events.write("denied", "connect", name=name)
    [line] = reader.lines()
    assert line.get("name", "") == name[:253]
    reader.close()


def test_a_reader_that_does_not_read_loses_lines_and_is_told_how_many(reader: Reader) -> None:
    for _ in range(2000):
        reader.events.write("allowed", "connect", name="a" * 200)
    kept = len(reader.lines())
    assert 0 < kept < 2000
    reader.events.write("allowed", "connect")
    reader.events.write("allowed", "connect")
    first, second = reader.lines()
    assert first["dropped"] == 2000 - kept
    assert "dropped" not in second


def test_a_flood_of_denials_does_not_hide_what_is_allowed(reader: Reader) -> None:
    denied = 0
    for _ in range(100):
        for _ in range(100):
            reader.events.write("denied", "dns")
        denied += len(reader.lines())
    reader.events.write("allowed", "connect")
    [allowed] = reader.lines()
    assert denied < 10_000
    assert allowed["dropped"] == 10_000 - denied
    reader.now = 1.0
    reader.events.write("denied", "dns")
    assert len(reader.lines()) == 1


def test_a_name_that_is_looked_up_again_and_again_is_told_of_once_a_second(reader: Reader) -> None:
    for _ in range(5):
        reader.events.write_name("denied", "a.test")
        reader.events.write_name("denied", "b.test")
    assert [line["name"] for line in reader.lines()] == ["a.test", "b.test"]
    reader.now = 1.0
    reader.events.write_name("denied", "a.test")
    assert len(reader.lines()) == 1


def test_a_reader_that_is_gone_does_no_harm(reader: Reader) -> None:
    os.close(reader.fd)
    reader.events.write("denied", "connect")
    reader.fd, other = os.pipe()
    os.close(other)
