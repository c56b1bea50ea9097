"""The name in a TLS connection's first message."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.egress.client_hello import LONGEST, ClientHello, HelloState, parse
from tests.unit.egress_peers import client_hello

REAL = client_hello("example.test", ("h2", "http/1.1"))


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack(">HH", kind, len(content)) + content


def sni(*names: tuple[int, bytes]) -> bytes:
    entries = b"".join(struct.pack(">BH", kind, len(name)) + name for kind, name in names)
    return extension(0, struct.pack(">H", len(entries)) + entries)


def message(*extensions: bytes, version: int = 0x303, tail: bytes = b"") -> bytes:
    """A handshake message, without its record."""
    fields = b"".join(extensions)
    body = struct.pack(">H", version) + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    body += struct.pack(">H", len(fields)) + fields + tail
    return b"\1" + len(body).to_bytes(3, "big") + body


def records(data: bytes, size: int = 1 << 14) -> bytes:
    portions = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"\x16\3\1" + struct.pack(">H", len(portion)) + portion for portion in portions)


@settings(max_examples=30)
@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z][a-z0-9]{0,10}){1,4}", fullmatch=True))
def test_the_name_is_the_one_that_openssl_was_given(name: str) -> None:
    assert parse(client_hello(name)) == ClientHello(HelloState.COMPLETE, name)


def test_a_client_that_names_no_server() -> None:
    assert parse(client_hello(None)) == ClientHello(HelloState.COMPLETE, None)


@given(st.integers(0, len(REAL) - 1))
def test_a_part_of_a_hello_is_incomplete(size: int) -> None:
    assert parse(REAL[:size]).state is HelloState.INCOMPLETE


@given(st.integers(17, len(REAL)))
def test_a_hello_in_several_records_is_the_same(size: int) -> None:
    assert parse(records(REAL[5:], max(size, len(REAL) // 30))) == parse(REAL)


def test_what_follows_in_further_records_is_not_the_hellos() -> None:
    assert parse(REAL + b"\x17\3\3\0\5early").server_name == "example.test"


@given(st.binary(max_size=400))
def test_random_bytes_never_raise(data: bytes) -> None:
    assert parse(data).server_name is None


@given(st.lists(st.tuples(st.integers(0, len(REAL) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_hello_never_raises(changes: list[tuple[int, int]]) -> None:
    data = bytearray(REAL)
    for place, value in changes:
        data[place] = value
    found = parse(data)
    assert found.state is HelloState.COMPLETE or found.server_name is None


@given(st.binary(max_size=120))
def test_random_extensions_never_raise(content: bytes) -> None:
    assert parse(records(message(content))).state in (HelloState.COMPLETE, HelloState.MALFORMED)


ONE = (0, b"a.test")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n", id="HTTP"),
        pytest.param(b"\x80\x2e\1\3\1", id="SSLv2"),
        pytest.param(b"\x16\2\0\0\1", id="version of the record"),
        pytest.param(b"\x16\3\1\0\0", id="empty record"),
        pytest.param(b"\x16\3\1\x40\1", id="record too long"),
        pytest.param(b"\x15\3\1\0\2\1\0", id="alert"),
        pytest.param(records(b"\2" + message(sni(ONE))[1:]), id="server hello"),
        pytest.param(records(b"\1\0\x40\1"), id="message too long"),
        pytest.param(records(message(sni(ONE)) + b"\0"), id="more behind the message"),
        pytest.param(records(message(sni(ONE), tail=b"\0")), id="more behind the extensions"),
        pytest.param(records(message(sni(ONE), version=0x203)), id="version"),
        pytest.param(records(message(sni(ONE), sni((0, b"b.test")))), id="two extensions"),
        pytest.param(records(message(extension(5, b""), extension(5, b""))), id="an extension twice"),
        pytest.param(records(message(sni(ONE, (0, b"b.test")))), id="two names"),
        pytest.param(records(message(sni((1, b"x"), ONE))), id="another kind of name first"),
        pytest.param(records(message(sni((0, b"")))), id="empty name"),
        pytest.param(records(message(sni())), id="no names"),
        pytest.param(records(message(sni((0, b"b\xfccher.test")))), id="not ASCII"),
        pytest.param(records(message(extension(0, b"\0\x20\0\0\1a"))), id="length beyond the end"),
        pytest.param(records(message(sni(ONE)), 1), id="in crumbs"),
        pytest.param(b"\x16\3\1\0\1\1" + b"\x17\3\3\0\1x", id="another record within"),
    ],
)
def test_what_is_malformed_is_refused_and_not_waited_for(data: bytes) -> None:
    assert parse(data) == ClientHello(HelloState.MALFORMED)


def test_a_hello_ends_somewhere() -> None:
    endless = records(b"\1\0\x3f\xff" + bytes(LONGEST))
    assert parse(endless[:LONGEST]).state is HelloState.MALFORMED
