"""A guest that was taken over: whatever it sends is answered, or ends the connection with what was wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.agent.decoder import MAX_SMALL
from backends.agent.errors import GuestError, GuestLost
from backends.inside.agent_codec import HEADER
from backends.inside.agent_protocol import WINDOW, Channel, GuestCommand, GuestFiles, Kind
from tests.guests import ended, failed, in_loop, raw_guest

Sent = tuple[int, int, bytes, int]
"""Kind, stream (relative to the program's), payload, flags."""

NUMBER = struct.Struct("<I")

BREACHES: list[tuple[str, list[Sent], str]] = [
    ("unknown kind", [(200, 0, b"", 0)], "a frame of the unknown kind 200"),
    ("the host's own kind", [(Kind.EXEC, 0, b"", 0)], "a frame of the unknown kind 4"),
    ("no such stream", [(Kind.DONE, 9, bytes(16), 0)], "DONE for stream 10, which is not open"),
    ("second greeting", [(Kind.WELCOME, -1, bytes(20), 0)], "WELCOME for stream 0, which is not open"),
    ("second start", [(Kind.STARTED, 0, bytes(4), 0)], "answered EXEC with STARTED"),
    ("failure after the start", [(Kind.FAILED, 0, failed(1), 0)], "answered EXEC with FAILED"),
    ("answer to another", [(Kind.PONG, 0, b"", 0)], "answered EXEC with PONG"),
    ("no byte of output", [(Kind.OUTPUT, 0, b"", 1)], "OUTPUT without a byte"),
    ("channel 0", [(Kind.OUTPUT, 0, b"x", 0)], "OUTPUT with the flags 0x0"),
    ("channel 3", [(Kind.OUTPUT, 0, b"x", 3)], "OUTPUT with the flags 0x3"),
    ("end of channel 7", [(Kind.OUTPUT_END, 0, b"", 7)], "OUTPUT_END with the flags 0x7"),
    ("two ends", [(Kind.OUTPUT_END, 0, b"", 1)] * 2, "ended STDOUT twice"),
    (
        "output after its end",
        [(Kind.OUTPUT_END, 0, b"", 2), (Kind.OUTPUT, 0, b"x", 2)],
        "OUTPUT after the end of STDERR",
    ),
    ("end with content", [(Kind.OUTPUT_END, 0, b"x", 1)], "1 bytes where none belong"),
    ("credit beyond the window", [(Kind.INPUT_CREDIT, 0, NUMBER.pack(1), 0)], "granted 1 bytes of input"),
    ("no credit", [(Kind.INPUT_CREDIT, 0, NUMBER.pack(0), 0)], "granted 0 bytes of input"),
    ("odd credit", [(Kind.INPUT_CREDIT, 0, b"abc", 0)], "4 bytes were expected, 3 came"),
    ("closed twice", [(Kind.INPUT_CLOSED, 0, b"", 0)] * 2, "closed its input twice"),
    ("a stop for an end", [(Kind.ENDED, 0, ended(0x137F), 0)], "0x137f is no end of a program"),
    ("an end of nothing", [(Kind.ENDED, 0, ended(-1), 0)], "-0x1 is no end of a program"),
    ("short end", [(Kind.ENDED, 0, b"", 0)], "32 bytes were expected, 0 came"),
    (
        "after the end",
        [(Kind.ENDED, 0, ended(), 0), (Kind.OUTPUT, 0, b"x", 1)],
        "OUTPUT for stream 1, which is not open",
    ),
    ("flags", [(Kind.ENDED, 0, ended(), 1)], "ENDED with the flags 0x1"),
    ("long failure", [(Kind.FAILED, 0, bytes(MAX_SMALL + 1), 0)], "FAILED of 4105 bytes; 4104 are allowed"),
    ("unknown step", [(Kind.FAILED, 1, failed(99), 0)], "99 is not a valid Step"),
]


@pytest.mark.parametrize(("sent", "reason"), [pytest.param(*rest, id=name) for name, *rest in BREACHES])
@in_loop
async def test_a_breach_ends_the_connection_and_is_named(sent: list[Sent], reason: str) -> None:
    async with raw_guest() as (connection, guest):
        starting = asyncio.create_task(
            connection.execute(GuestCommand(("a",)), stdin=None, stdout=len, stderr=len)
        )
        stream = await guest.starts()
        process = await starting
        waiting = asyncio.create_task(connection.sync())
        await guest.next(Kind.SYNC)
        for kind, relative, payload, flags in sent:
            await guest.send(kind, stream + relative, payload, flags)
        with pytest.raises(GuestLost) as caught:
            await waiting
        assert reason in caught.value.reason
        with contextlib.suppress(GuestLost):  # unless it had ended before
            await process.wait()
        with pytest.raises(EOFError):
            while True:
                await guest.frame()


@pytest.mark.parametrize("trailing", [b"\1", HEADER.pack(100, Kind.FAILED, 0, 1) + bytes(99)])
@in_loop
async def test_half_a_frame_is_not_waited_for_for_ever(trailing: bytes) -> None:
    async with raw_guest(frame_deadline_s=0.05) as (connection, guest):
        waiting = asyncio.create_task(connection.sync())
        await guest.next(Kind.SYNC)
        await guest.raw(trailing)
        with pytest.raises(GuestLost, match=r"half a frame and no more for 0\.05 s"):
            await waiting


@in_loop
async def test_a_guest_that_dies_in_a_frame_is_told_apart() -> None:
    async with raw_guest() as (connection, guest):
        await guest.raw(b"\1\2\3")
        guest.sock.close()
        assert (await connection.lost).reason == "it hung up in the middle of a frame"


@in_loop
async def test_frames_in_drips_are_still_frames() -> None:
    async with raw_guest(frame_deadline_s=0.05) as (connection, guest):
        pinging = asyncio.create_task(connection.ping())
        stream = (await guest.next(Kind.PING)).stream
        for byte in HEADER.pack(0, Kind.PONG, 0, stream):
            await guest.raw(bytes([byte]))
            await asyncio.sleep(0)
        assert await pinging > 0


@in_loop
async def test_a_flood_of_garbage_ends_at_once_and_takes_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with raw_guest() as (connection, guest):
        with contextlib.suppress(ConnectionError):
            for _ in range(1024):
                await guest.raw(os.urandom(65536))
        assert (await connection.lost).reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16384  # KiB


@in_loop
async def test_a_flood_of_small_output_lets_others_have_their_turn() -> None:
    """A window of single bytes comes in one go: the loop must turn meanwhile."""
    async with raw_guest() as (connection, guest):
        out = bytearray()
        starting = asyncio.create_task(
            connection.execute(GuestCommand(("a",)), stdin=None, stdout=out.extend, stderr=len)
        )
        stream = await guest.starts()
        await starting
        turns = 0

        async def others() -> None:
            nonlocal turns
            while len(out) < WINDOW // 8:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(others())
        await guest.raw((HEADER.pack(1, Kind.OUTPUT, Channel.STDOUT, stream) + b"x") * (WINDOW // 8))
        await counting
        assert turns >= WINDOW // 8 / 256
        assert len(out) == WINDOW // 8


@in_loop
async def test_small_pieces_for_a_consumer_that_sleeps_take_no_more_than_a_window() -> None:
    read, write = os.pipe()
    async with raw_guest() as (connection, guest):
        starting = asyncio.create_task(
            connection.execute(GuestCommand(("a",)), stdin=None, stdout=write, stderr=len)
        )
        stream = await guest.starts()
        process = await starting
        frame = HEADER.pack(1, Kind.OUTPUT, Channel.STDOUT, stream) + b"x"
        with contextlib.suppress(ConnectionError):
            await guest.raw(frame * (2 * WINDOW))
        assert "bytes more of STDOUT than allowed" in (await connection.lost).reason
        process.discard()
    os.close(read)
    os.close(write)


@in_loop
async def test_a_guest_that_reads_nothing_is_given_up_before_memory_is() -> None:
    async with raw_guest() as (connection, guest):
        starting = asyncio.create_task(
            connection.execute(GuestCommand(("a",)), stdin=None, stdout=len, stderr=len)
        )
        await guest.starts()
        process = await starting
        long = GuestCommand(("a",), seccomp=bytes((8 << 20) - 1000))
        waiting = asyncio.create_task(connection.execute(long, stdin=None, stdout=len, stderr=len))
        await asyncio.sleep(0)
        for _ in range(100_000):
            process.signal(1)
        with pytest.raises(GuestLost):
            await waiting
        assert connection.lost.result().reason == "it does not read what is sent to it"


@in_loop
async def test_a_guest_that_shuts_its_ear_is_lost_and_its_last_words_are_heard() -> None:
    async with raw_guest() as (connection, guest):
        pinging = asyncio.create_task(connection.ping())
        stream = (await guest.next(Kind.PING)).stream
        await guest.send(Kind.PONG, stream)
        guest.sock.close()
        late = asyncio.create_task(connection.sync())
        assert await pinging > 0
        with pytest.raises(GuestLost, match="it hung up"):
            await late


FRAMES = st.lists(
    st.tuples(
        st.sampled_from([int(kind) for kind in Kind]),
        st.integers(0, 6),
        st.one_of(st.binary(max_size=50), st.sampled_from([bytes(4), NUMBER.pack(5), ended(), bytes(16)])),
        st.integers(0, 3),
    ),
    max_size=20,
)


def wire(frames: list[Sent]) -> bytes:
    return b"".join(
        HEADER.pack(len(payload), kind, flags, stream) + payload for kind, stream, payload, flags in frames
    )


@settings(max_examples=150)
@given(st.one_of(st.binary(max_size=300), FRAMES.map(wire)), st.booleans())
def test_whatever_comes_is_an_answer_or_the_end(data: bytes, start: bool) -> None:
    """Every request comes to an end, with a result or with an error of the tree, once the guest is gone."""

    @in_loop
    async def run() -> None:
        async with raw_guest() as (connection, guest):
            archive = connection.get(GuestFiles("/"))
            requests = [
                asyncio.ensure_future(request)
                for request in (
                    connection.execute(GuestCommand(("a",)), stdin=None, stdout=len, stderr=len),
                    connection.ping(),
                    connection.sync(),
                    connection.put(GuestFiles("/"), [bytes(10)]),
                    anext(archive),
                )
            ]
            stream = (await guest.message(Kind.EXEC)).stream
            if start:
                await guest.send(Kind.STARTED, stream, bytes(4))
            with contextlib.suppress(ConnectionError):
                await guest.raw(data)
            guest.sock.close()
            for result in await asyncio.gather(*requests, return_exceptions=True):
                assert not isinstance(result, BaseException) or isinstance(
                    result, GuestError | StopAsyncIteration
                )
            assert (await connection.lost).reason

    run()
