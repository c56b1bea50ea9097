"""Archives into a guest and out of it, with credit."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncGenerator, Iterator

import pytest

from backends.agent.errors import GuestLost, GuestRefused, GuestSilent
from backends.inside.agent_protocol import WINDOW, Channel, GuestDone, GuestFiles, Kind, Step
from tests.guests import RawGuest, done, failed, fake_guest, in_loop, raw_guest

HERE = GuestFiles("/here")
CONTENT = bytes(range(256)) * 4096


def number(value: int) -> bytes:
    return value.to_bytes(4, "little")


async def slowly(*chunks: bytes) -> AsyncGenerator[bytes]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


@pytest.mark.parametrize("chunk", [len(CONTENT), 70000, 512])
@in_loop
async def test_what_is_put_can_be_got(chunk: int) -> None:
    chunks = [CONTENT[start : start + chunk] for start in range(0, len(CONTENT), chunk)]
    async with fake_guest() as (connection, guest):
        assert await connection.put(HERE, chunks) == GuestDone(len(CONTENT), 1)
        assert await connection.put(GuestFiles("/there"), slowly(*chunks)) == GuestDone(len(CONTENT), 1)
        assert guest.files == {"/here": CONTENT, "/there": CONTENT}
        archive = connection.get(HERE)
        assert b"".join([piece async for piece in archive]) == CONTENT
        assert archive.done == GuestDone(len(CONTENT), 1)


@in_loop
async def test_what_is_not_there_is_refused() -> None:
    async with fake_guest() as (connection, _):
        with pytest.raises(GuestRefused, match=r"GET failed in the guest at OPEN: No such file.*\('/here'\)"):
            await anext(connection.get(HERE))


@in_loop
async def test_a_put_that_fails_early_stops_taking_chunks() -> None:
    async with raw_guest() as (connection, guest):
        taken = 0

        def endless() -> Iterator[bytes]:
            nonlocal taken
            while True:
                taken += 1
                yield bytes(65536)

        putting = asyncio.create_task(connection.put(HERE, endless()))
        stream = (await guest.message(Kind.PUT)).stream
        await guest.next(Kind.INPUT)
        await guest.send(Kind.FAILED, stream, failed(Step.WRITE, errno.ENOSPC))
        with pytest.raises(GuestRefused, match="No space left"):
            await putting
        assert taken <= WINDOW // 65536 + 1


@in_loop
async def test_chunks_that_fail_end_the_archive_and_leave_the_connection() -> None:
    async def broken() -> AsyncGenerator[bytes]:
        yield b"part"
        raise LookupError("of the chunks")

    async with fake_guest() as (connection, guest):
        with pytest.raises(LookupError):
            await connection.put(HERE, broken())
        assert await connection.ping() > 0
        assert guest.files == {"/here": b"part"}


@in_loop
async def test_a_guest_that_takes_nothing_is_noticed() -> None:
    async with raw_guest() as (connection, guest):
        with pytest.raises(GuestSilent, match="PUT"):
            await connection.put(HERE, [bytes(2 * WINDOW)], deadline_s=0.05)
        received = 0
        while (frame := await guest.frame()).kind is not Kind.INPUT_END:
            received += len(frame.payload) if frame.kind is Kind.INPUT else 0
        assert received == WINDOW
        with pytest.raises(GuestSilent, match="GET"):
            await anext(connection.get(HERE, deadline_s=0.05))


@in_loop
async def test_no_more_is_asked_for_than_was_taken() -> None:
    async with raw_guest() as (connection, guest):
        archive = connection.get(HERE)
        first = asyncio.create_task(anext(archive))
        stream = (await guest.message(Kind.GET)).stream
        await fill(guest, stream)
        taken = len(await first)
        while taken < WINDOW:
            taken += len(await anext(archive))
        granted = 0
        while granted < WINDOW // 2:
            credit = await guest.next(Kind.CREDIT)
            assert (credit.stream, credit.flags) == (stream, Channel.STDOUT)
            granted += int.from_bytes(credit.payload, "little")
        assert granted <= WINDOW
        await guest.send(Kind.OUTPUT_END, stream, b"", Channel.STDOUT)
        await guest.send(Kind.DONE, stream, done(WINDOW, 1))
        assert [piece async for piece in archive] == []


@in_loop
async def test_a_guest_that_sends_more_than_was_asked_for_is_lost() -> None:
    async with raw_guest() as (connection, guest):
        archive = connection.get(HERE)
        waiting = asyncio.create_task(connection.sync())
        first = asyncio.create_task(anext(archive))
        stream = (await guest.message(Kind.GET)).stream
        await fill(guest, stream)
        await first
        with contextlib.suppress(ConnectionError):
            for _ in range(8):
                await fill(guest, stream)
        with pytest.raises(GuestLost, match="bytes more of STDOUT than allowed"):
            await waiting


async def fill(guest: RawGuest, stream: int) -> None:
    for _ in range(WINDOW // 65536):
        await guest.send(Kind.OUTPUT, stream, bytes(65536), Channel.STDOUT)


@in_loop
async def test_a_get_that_is_given_up_stops_the_guest() -> None:
    async with fake_guest() as (connection, guest):
        guest.files["/here"] = CONTENT * 8
        archive = connection.get(HERE)
        assert await anext(archive)
        await archive.aclose()
        assert [piece async for piece in archive] == []
        assert await connection.ping() > 0
        assert b"".join([piece async for piece in connection.get(HERE)]) == CONTENT * 8


@in_loop
async def test_an_archive_without_an_end_is_none() -> None:
    async with raw_guest() as (connection, guest):
        first = asyncio.create_task(anext(connection.get(HERE)))
        await guest.send(Kind.DONE, (await guest.message(Kind.GET)).stream, done())
        with pytest.raises(GuestLost, match="answered GET with DONE"):
            await first
