"""A program that runs on in a copy of its machine is taken over with its streams, and their credit."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestLost
from backends.agent.inherited import Conversation, inherit, take_over
from backends.agent.process import Standing
from backends.inside import agent_codec as codec
from backends.inside.agent_protocol import WINDOW, Channel, Kind, Welcome
from tests.guests import RawGuest, ended, in_loop, pair

STREAM, OTHER = 3, 4


@asynccontextmanager
async def copied(standing: Standing) -> AsyncGenerator[tuple[GuestConnection, RawGuest]]:
    """A connection that goes on in the middle of a conversation with two programs, one of which was kept."""
    ours, theirs = pair()
    connection, _ = inherit(ours, Conversation(9, (STREAM, OTHER), Welcome(1, True), kept=(standing,)))
    try:
        yield connection, RawGuest(theirs)
    finally:
        await connection.close()
        theirs.close()


def standing(input_left: int | None = 10, owed: int = 0) -> Standing:
    return Standing(STREAM, 77, input_left, ((WINDOW - owed, owed, False), (WINDOW, 0, False)))


@in_loop
async def test_it_goes_on_where_it_was_and_what_it_said_meanwhile_comes_first() -> None:
    async with copied(standing(owed=WINDOW // 2 - 3)) as (connection, guest):
        frame = await guest.frame()
        assert (frame.kind, frame.stream) == (Kind.INPUT_END, OTHER), "the one that nobody kept"
        await guest.send(Kind.OUTPUT, STREAM, b"early", Channel.STDOUT)
        await asyncio.sleep(0.05)
        said = bytearray()
        reader, writer = socket.socketpair()
        with reader, writer:
            process = take_over(
                connection, standing(owed=WINDOW // 2 - 3), stdin=writer.fileno(), stdout=said.extend,
                stderr=said.extend,
            )  # fmt: skip
            assert (process.pid, bytes(said)) == (77, b"early")
            credit = await guest.next(Kind.CREDIT)
            assert (credit.stream, codec.read_number(credit.payload)) == (STREAM, WINDOW // 2 + 2)
            reader.send(b"x" * 30)
            assert (await guest.next(Kind.INPUT)).payload == b"x" * 10, "so much it may still be sent"
            await guest.send(Kind.INPUT_CREDIT, STREAM, codec.number(5))
            assert (await guest.next(Kind.INPUT)).payload == b"x" * 5
            await guest.send(Kind.OUTPUT, STREAM, b" late", Channel.STDERR)
            for channel in Channel:
                await guest.send(Kind.OUTPUT_END, STREAM, b"", channel)
            await guest.send(Kind.ENDED, STREAM, ended(3 << 8))
            assert os.waitstatus_to_exitcode((await process.wait(deadline_s=5)).status) == 3
            assert bytes(said) == b"early late"


@in_loop
async def test_its_end_before_it_was_taken_over_is_told() -> None:
    async with copied(standing()) as (connection, guest):
        for channel in Channel:
            await guest.send(Kind.OUTPUT_END, STREAM, b"", channel)
        await guest.send(Kind.ENDED, STREAM, ended(0))
        await asyncio.sleep(0.05)
        reader, writer = socket.socketpair()
        with reader, writer:
            process = take_over(connection, standing(), stdin=writer.fileno(), stdout=bool, stderr=bool)
            assert (await process.wait(deadline_s=5)).status == 0


@in_loop
async def test_more_than_any_program_may_say_ends_the_connection() -> None:
    async with copied(standing()) as (connection, guest):
        with pytest.raises((ConnectionError, OSError)):
            for _ in range(20):
                await guest.send(Kind.OUTPUT, STREAM, b"x" * 65536, Channel.STDOUT)
        assert "nobody listens" in (await connection.lost).reason
        with pytest.raises(GuestLost):
            take_over(connection, standing(), stdin=0, stdout=bool, stderr=bool)
