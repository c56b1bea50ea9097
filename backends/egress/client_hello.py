"""The first message of a TLS connection, read for the name in it (RFC 8446 4.1.2, RFC 6066 3). Pure.

Strict: every length must add up and nothing may follow inside the message, so that no server can read another
name out of it than we do.
"""

from __future__ import annotations

from enum import Enum

from backends.frozen import frozen

__all__ = ["LONGEST", "ClientHello", "HelloState", "parse"]

LONGEST = 16 * 1024
"""Bytes of a hello at most, record headers included."""

_MOST_RECORDS = 32
_HANDSHAKE_RECORD = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0
_RECORD_HEADER = 5
_MESSAGE_HEADER = 4
_LONGEST_FRAGMENT = 1 << 14


class HelloState(Enum):
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    MALFORMED = "malformed"


@frozen
class ClientHello:
    """`server_name`: as the client wrote it; None where it names no server, or the hello is not complete."""

    state: HelloState
    server_name: str | None = None


_INCOMPLETE = ClientHello(HelloState.INCOMPLETE)
_MALFORMED = ClientHello(HelloState.MALFORMED)


class _Malformed(Exception):
    """Never leaves this module."""


def parse(data: bytes | bytearray) -> ClientHello:
    """What the bytes that a client has sent so far are. Never raises."""
    try:
        message = _message(data)
        if message is None:
            return _MALFORMED if len(data) >= LONGEST else _INCOMPLETE
        return ClientHello(HelloState.COMPLETE, _server_name(_extensions(_Reader(message))))
    except _Malformed:
        return _MALFORMED


class _Reader:
    """Takes fields off the front of `data`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._place

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise _Malformed
        self._place += size
        return self._data[self._place - size : self._place]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, least: int, unit: int = 1) -> bytes:
        """A field with its length, of `size` bytes, before it."""
        found = self.take(self.number(size))
        if len(found) < least or len(found) % unit:
            raise _Malformed
        return found

    def end(self) -> None:
        if self.left:
            raise _Malformed


def _message(data: bytes | bytearray) -> bytes | None:
    """The hello's body out of its records; None where bytes are missing."""
    message = bytearray()
    place = 0
    for _ in range(_MOST_RECORDS):
        header = data[place : place + _RECORD_HEADER]
        if header[:1] not in (b"", bytes([_HANDSHAKE_RECORD])) or header[1:2] not in (b"", b"\x03"):
            raise _Malformed
        if len(header) < _RECORD_HEADER:
            return None
        size = int.from_bytes(header[3:5], "big")
        if not 0 < size <= _LONGEST_FRAGMENT:
            raise _Malformed
        fragment = data[place + _RECORD_HEADER : place + _RECORD_HEADER + size]
        message += fragment
        if message and message[0] != _CLIENT_HELLO:
            raise _Malformed
        if len(message) >= _MESSAGE_HEADER:
            whole = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER], "big")
            if whole > LONGEST or len(message) > whole:
                raise _Malformed
            if len(message) == whole and len(fragment) == size:
                return bytes(message[_MESSAGE_HEADER:])
        if len(fragment) < size:
            return None
        place += _RECORD_HEADER + size
    raise _Malformed


def _extensions(hello: _Reader) -> dict[int, bytes]:
    if hello.number(2) >> 8 != 3:
        raise _Malformed
    hello.take(32)
    if len(hello.vector(1, 0)) > 32:
        raise _Malformed
    hello.vector(2, 2, 2)
    hello.vector(1, 1)
    if not hello.left:
        return {}
    fields = _Reader(hello.vector(2, 0))
    hello.end()
    found: dict[int, bytes] = {}
    while fields.left:
        kind = fields.number(2)
        if kind in found:
            raise _Malformed
        found[kind] = fields.vector(2, 0)
    return found


def _server_name(extensions: dict[int, bytes]) -> str | None:
    """One name, of the only kind there is. With two, a server could take the other one."""
    if _SERVER_NAME not in extensions:
        return None
    extension = _Reader(extensions[_SERVER_NAME])
    names = _Reader(extension.vector(2, 1))
    extension.end()
    if names.number(1) != _HOST_NAME:
        raise _Malformed
    name = names.vector(2, 1)
    names.end()
    try:
        return name.decode("ascii")
    except UnicodeDecodeError:
        raise _Malformed from None
