"""Frames out of the bytes that a guest sends, in one buffer that never grows (no I/O)."""

from __future__ import annotations

from backends.inside.agent_codec import HEADER
from backends.inside.agent_protocol import MAX_PAYLOAD, Kind

__all__ = ["FrameDecoder", "ProtocolBreach"]

MAX_SMALL = 8 + 4096
"""Payload of anything but OUTPUT: the longest is FAILED about a path."""

_FRAME = HEADER.size + MAX_PAYLOAD
_CAPACITY = 4 * _FRAME
_ALLOWED = {
    int(kind): (
        kind,
        MAX_PAYLOAD if kind is Kind.OUTPUT else MAX_SMALL,
        kind in (Kind.OUTPUT, Kind.OUTPUT_END),
    )
    for kind in Kind
    if kind >= Kind.WELCOME
}
"""Of each kind that an agent sends: itself, the longest payload, whether it has flags."""


class ProtocolBreach(ValueError):
    """The guest sent what the protocol does not allow; the text names it."""


class FrameDecoder:
    """Takes bytes as they come, gives whole frames.

    Use: read into `room()`, tell `received()` how many, call `next()` until it is None. A payload is valid
    until `room()` is called again. `frames` counts what was given.
    """

    __slots__ = ("_end", "_start", "_view", "frames")

    def __init__(self) -> None:
        self._view = memoryview(bytearray(_CAPACITY))
        self._start = 0
        self._end = 0
        self.frames = 0

    def room(self) -> memoryview:
        """Where the next bytes go; never empty once `next()` has given None."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and _CAPACITY - self._start < _FRAME:
            left = self._end - self._start
            self._view[:left] = self._view[self._start : self._end]
            self._start, self._end = 0, left
        return self._view[self._end :]

    def received(self, count: int) -> None:
        self._end += count

    @property
    def partial(self) -> int:
        """Bytes that no frame was made of yet."""
        return self._end - self._start

    def next(self) -> tuple[Kind, int, int, memoryview] | None:
        """Kind, flags, stream and payload of the next frame; None when it is not all there.

        Raises `ProtocolBreach` as soon as a header is there that no agent sends.
        """
        here = self._end - self._start
        if here < HEADER.size:
            return None
        length, number, flags, stream = HEADER.unpack_from(self._view, self._start)
        if number not in _ALLOWED:
            raise ProtocolBreach(f"it sent a frame of the unknown kind {number}")
        kind, longest, flagged = _ALLOWED[number]
        if length > longest:
            raise ProtocolBreach(f"it sent a frame {kind.name} of {length} bytes; {longest} are allowed")
        if flags and not flagged:
            raise ProtocolBreach(f"it sent a frame {kind.name} with the flags {flags:#x}")
        if here < HEADER.size + length:
            return None
        begin = self._start + HEADER.size
        self._start = begin + length
        self.frames += 1
        return kind, flags, stream, self._view[begin : self._start]
