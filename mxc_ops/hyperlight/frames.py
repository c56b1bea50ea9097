"""Frames between the host and an interpreter that runs cells; see `backends.inside.cells`. Pure.

What comes from there is read in bounds and believed in nothing: hostile code may send whatever it likes.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, cast

__all__ = ["MAX_MESSAGE", "VERSION", "Breach", "FrameReader", "Kind", "as_json", "encode", "read_object"]

VERSION = 1
MAX_MESSAGE = 4 << 20
MAX_OUTPUT = 65536
MAX_DEPTH = 100
HEADER = struct.Struct("<IB")


class Kind(IntEnum):
    RUN = ord("X")
    ANSWER = ord("A")
    SEED = ord("S")
    READY = ord("R")
    STDOUT = ord("o")
    STDERR = ord("e")
    CALL = ord("C")
    DONE = ord("D")


_MOST = {
    Kind.READY: 1000,
    Kind.STDOUT: MAX_OUTPUT,
    Kind.STDERR: MAX_OUTPUT,
    Kind.CALL: MAX_MESSAGE,
    Kind.DONE: MAX_MESSAGE,
}
"""What an interpreter may send, and the most that each may hold."""

# Possessive, and to the end where a text has none: whatever comes, each byte is looked at once.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


class Breach(ValueError):
    """What came is not what an interpreter of ours sends; in words."""


class FrameReader:
    """Frames out of the pieces in which they come. At most one frame, and one piece, is held."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def partial(self) -> bool:
        """Whether it is in the middle of a frame."""
        return bool(self._held)

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """The frames that are complete now. Raises `Breach` for one that nobody of ours sends."""
        self._held += data
        while len(self._held) >= HEADER.size:
            length, number = HEADER.unpack_from(self._held)
            most = _MOST.get(cast("Kind", number))
            if most is None:
                raise Breach(f"it sent a frame of the kind {number}")
            if length > most:
                raise Breach(f"it sent a {Kind(number).name} of {length} bytes, and {most} are the most")
            if len(self._held) < HEADER.size + length:
                return
            content = bytes(self._held[HEADER.size : HEADER.size + length])
            del self._held[: HEADER.size + length]
            yield Kind(number), content


def encode(kind: Kind, content: bytes) -> bytes:
    return HEADER.pack(len(content), kind) + content


def as_json(value: object) -> bytes:
    """Raises `ValueError` for what JSON does not hold (RFC 8259: no NaN), or is too deep or large."""
    try:
        content = json.dumps(value, allow_nan=False).encode()
    except TypeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is too deep, or holds itself") from None
    if len(content) > MAX_MESSAGE:
        raise ValueError(f"it takes {len(content)} bytes as JSON, and {MAX_MESSAGE} are the most")
    if _depth(content) > MAX_DEPTH:
        raise ValueError(f"it is more than {MAX_DEPTH} deep")
    return content


def read_object(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises `Breach`."""
    try:
        text = content.decode()
        if _depth(content) > MAX_DEPTH:
            raise Breach(f"it sent JSON that is more than {MAX_DEPTH} deep")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except Breach:
        raise
    except (ValueError, RecursionError):
        raise Breach("it sent what is not JSON") from None
    if not isinstance(value, dict):
        raise Breach("it sent JSON that is no object")
    return cast("dict[str, Any]", value)


def _refuse(name: str) -> None:
    raise Breach(f"it sent {name} as JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise Breach("it sent a number that is too large")
    return number


def _depth(content: bytes) -> int:
    """How deep brackets are nested, whatever else is wrong."""
    deepest = depth = 0
    for found in _BRACKETS.finditer(_TEXT.sub(b"", content)):
        depth += 1 if found[0] in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest
