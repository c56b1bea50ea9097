"""Frames come out of the bytes as they were put in, however the bytes were cut."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.agent.decoder import MAX_SMALL, OF_AGENTS, OF_HOSTS, FrameDecoder, FrameRule, ProtocolBreach
from backends.inside.agent_codec import HEADER
from backends.inside.agent_protocol import MAX_PAYLOAD, Channel, Flag, Frame, Kind

STREAMS = st.integers(0, 2**32 - 1)
FLAGGED = (Kind.OUTPUT, Kind.OUTPUT_END)
SMALL_KINDS = [kind for kind in Kind if kind >= Kind.WELCOME and kind not in FLAGGED]


def output(stream: int, byte: int, size: int, flags: int) -> Frame:
    return Frame(Kind.OUTPUT, stream, bytes([byte]) * size, flags)


OUTPUT = st.builds(
    output, STREAMS, st.integers(0, 255), st.integers(0, MAX_PAYLOAD), st.sampled_from(Channel)
)
END = st.builds(Frame, st.just(Kind.OUTPUT_END), STREAMS, st.just(b""), st.sampled_from(Channel))
SMALL = st.builds(Frame, st.sampled_from(SMALL_KINDS), STREAMS, st.binary(max_size=100), st.just(0))


def wire(frame: Frame) -> bytes:
    return HEADER.pack(len(frame.payload), frame.kind, frame.flags, frame.stream) + frame.payload


def feed(decoder: FrameDecoder, data: bytes, cuts: list[int]) -> list[Frame]:
    """Everything that comes out when `data` arrives in pieces of these sizes, again and again."""
    frames: list[Frame] = []
    sizes = itertools.cycle(cuts)
    rest = memoryview(data)
    while rest:
        room = decoder.room()
        count = min(next(sizes), len(room), len(rest))
        room[:count] = rest[:count]
        decoder.received(count)
        rest = rest[count:]
        while (frame := decoder.next()) is not None:
            kind, flags, stream, payload = frame
            frames.append(Frame(kind, stream, bytes(payload), flags))
    return frames


@given(st.lists(st.one_of(OUTPUT, END, SMALL), max_size=12), st.lists(st.integers(100, 300_000), min_size=1))
def test_frames_are_the_same_however_the_bytes_come(frames: list[Frame], cuts: list[int]) -> None:
    decoder = FrameDecoder()
    assert feed(decoder, b"".join(map(wire, frames)), cuts) == frames
    assert (decoder.partial, decoder.frames) == (0, len(frames))


@given(st.binary(max_size=400), st.lists(st.integers(1, 50), min_size=1))
def test_any_bytes_are_frames_or_a_breach_or_half_a_frame(data: bytes, cuts: list[int]) -> None:
    decoder = FrameDecoder()
    try:
        frames = feed(decoder, data, cuts)
    except ProtocolBreach as breach:
        assert str(breach).startswith("it sent a frame")
    else:
        whole = b"".join(map(wire, frames))
        assert data.startswith(whole)
        assert decoder.partial == len(data) - len(whole)


CHANNELS, MORE_OR_NOT = {1, 2}, {0, int(Flag.MORE)}
ALLOWED = {
    **dict.fromkeys((Kind.OUTPUT, Kind.OUTPUT_END, Kind.CREDIT, Kind.OUTPUT_CLOSED), CHANNELS),
    **dict.fromkeys((Kind.EXEC, Kind.PUT, Kind.GET), MORE_OR_NOT),
    Kind.SIGNAL: {0, int(Flag.LAST)},
}


@pytest.mark.parametrize("rule", [*OF_AGENTS.values(), *OF_HOSTS.values()], ids=lambda rule: rule.kind.name)
def test_each_number_of_flags_is_allowed_or_not_by_itself(rule: FrameRule) -> None:
    """Two that are allowed are not so together."""
    taken: set[int] = set()
    for flags in (*range(8), 255, 256, 65535):
        decoder = FrameDecoder(OF_AGENTS if rule.kind in OF_AGENTS else OF_HOSTS)
        with suppress(ProtocolBreach):
            feed(decoder, HEADER.pack(rule.shortest, rule.kind, flags, 1) + bytes(rule.shortest), [64])
            taken.add(flags)
    assert taken == ALLOWED.get(rule.kind, {0})


@pytest.mark.parametrize(
    "header",
    [
        HEADER.pack(MAX_PAYLOAD + 1, Kind.OUTPUT, 1, 1),
        HEADER.pack(2**32 - 1, Kind.OUTPUT, 1, 1),
        HEADER.pack(MAX_SMALL + 1, Kind.FAILED, 0, 1),
        HEADER.pack(0, 0, 0, 1),
        HEADER.pack(0, Kind.EXEC, 0, 1),
        HEADER.pack(0, 139, 0, 1),
        HEADER.pack(0, Kind.PONG, 1, 1),
    ],
)
def test_a_wrong_header_is_noticed_without_its_payload(header: bytes) -> None:
    with pytest.raises(ProtocolBreach):
        feed(FrameDecoder(), header, [1])
