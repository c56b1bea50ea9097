"""Frames out of the bytes that the other side sends, in one buffer that never grows (no I/O)."""

from __future__ import annotations

from collections.abc import Mapping

from backends.frozen import frozen
from backends.inside.agent_codec import HEADER
from backends.inside.agent_protocol import MAX_PAYLOAD, Channel, Flag, Kind

__all__ = ["OF_AGENTS", "OF_HOSTS", "FrameDecoder", "FrameRule", "ProtocolBreach"]

MAX_SMALL = 8 + 4096
"""Payload of anything but OUTPUT: the longest is FAILED about a path."""

_FRAME = HEADER.size + MAX_PAYLOAD
_CAPACITY = 4 * _FRAME


@frozen
class FrameRule:
    """What a frame of one kind may be: how long its payload, and its flags, one of these numbers."""

    kind: Kind
    longest: int
    flags: frozenset[int] = frozenset({0})
    shortest: int = 0


_CHANNEL = frozenset(map(int, Channel))
_PERHAPS_MORE = frozenset({0, int(Flag.MORE)})
OF_AGENTS: Mapping[int, FrameRule] = {
    int(kind): FrameRule(
        kind,
        MAX_PAYLOAD if kind is Kind.OUTPUT else MAX_SMALL,
        _CHANNEL if kind in (Kind.OUTPUT, Kind.OUTPUT_END) else frozenset({0}),
    )
    for kind in Kind
    if kind >= Kind.WELCOME
}
OF_HOSTS: Mapping[int, FrameRule] = {
    int(rule.kind): rule
    for rule in (
        FrameRule(Kind.HELLO, 8, shortest=8),
        FrameRule(Kind.PING, 64),
        *(FrameRule(kind, MAX_PAYLOAD, _PERHAPS_MORE) for kind in (Kind.EXEC, Kind.PUT, Kind.GET)),
        FrameRule(Kind.INPUT, MAX_PAYLOAD),
        FrameRule(Kind.INPUT_END, 0),
        FrameRule(Kind.CREDIT, 4, _CHANNEL, shortest=4),
        FrameRule(Kind.RESIZE, 4, shortest=4),
        FrameRule(Kind.SIGNAL, 4, frozenset({0, int(Flag.LAST)}), shortest=4),
        FrameRule(Kind.REPORT, 0),
        FrameRule(Kind.OUTPUT_CLOSED, 0, _CHANNEL),
    )
}
"""Of a host that shares a sandbox with others: nothing that would change it for them."""


class ProtocolBreach(ValueError):
    """The other side sent what the protocol does not allow; the text names it."""


class FrameDecoder:
    """Takes bytes as they come, gives whole frames.

    Use: read into `room()`, tell `received()` how many, call `next()` until it is None. A payload is valid
    until `room()` is called again. `frames` counts what was given.
    """

    __slots__ = ("_end", "_rules", "_start", "_view", "frames")

    def __init__(self, rules: Mapping[int, FrameRule] = OF_AGENTS) -> None:
        self._rules = rules
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

        Raises `ProtocolBreach` as soon as a header is there that the rules do not allow.
        """
        here = self._end - self._start
        if here < HEADER.size:
            return None
        length, number, flags, stream = HEADER.unpack_from(self._view, self._start)
        rule = self._rules.get(number)
        if rule is None:
            raise ProtocolBreach(f"it sent a frame of the unknown kind {number}")
        kind = rule.kind
        if length > rule.longest:
            raise ProtocolBreach(f"it sent a frame {kind.name} of {length} bytes; {rule.longest} are allowed")
        if length < rule.shortest:
            raise ProtocolBreach(f"it sent a frame {kind.name} of {length} bytes; {rule.shortest} are needed")
        if flags not in rule.flags:
            raise ProtocolBreach(f"it sent a frame {kind.name} with the flags {flags:#x}")
        if here < HEADER.size + length:
            return None
        begin = self._start + HEADER.size
        self._start = begin + length
        self.frames += 1
        return kind, flags, stream, self._view[begin : self._start]
