"""What can be asked of a guest's agent, and how it is told when that goes wrong."""

from __future__ import annotations

import asyncio
import errno
import re
import struct
import time

import pytest

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestLost, GuestRefused, GuestSilent
from backends.agent.identity import new_identity
from backends.inside.agent_protocol import (
    MAX_STREAMS,
    VERSION,
    GuestCommand,
    GuestMount,
    GuestReport,
    Kind,
    Step,
)
from tests.guests import WELCOME, RawGuest, done, failed, fake_guest, in_loop, pair, raw_guest


@in_loop
async def test_every_request_is_answered() -> None:
    async with fake_guest() as (connection, guest):
        assert (connection.welcome.boot_us, connection.welcome.has_zygote) == (1_200_000, True)
        assert 0 < await connection.ping() < 10
        await connection.identify(new_identity("one"))
        await connection.mount(GuestMount("/data", source="/dev/vdb", file_system="erofs"))
        await connection.sync()
        assert await connection.report() == GuestReport(1 << 28, 1 << 27, 5000, 9000, 2, 7)
        asked = [(frame.kind, frame.stream) for frame in guest.asked]
        kinds = (Kind.HELLO, Kind.PING, Kind.IDENTITY, Kind.MOUNT, Kind.SYNC, Kind.REPORT)
        assert asked == list(zip(kinds, range(6), strict=True))
        assert not connection.lost.done()


@in_loop
async def test_power_off_returns_when_the_guest_has_hung_up() -> None:
    async with fake_guest() as (connection, _):
        await connection.power_off()
        assert connection.lost.result().reason == "it hung up"
        with pytest.raises(GuestLost, match="it hung up"):
            await connection.ping()


@in_loop
async def test_a_refusal_says_where_and_why_and_prints_nothing_wild() -> None:
    async with raw_guest() as (connection, guest):
        mounting = asyncio.create_task(connection.mount(GuestMount("/data")))
        stream = (await guest.next(Kind.MOUNT)).stream
        await guest.send(Kind.FAILED, stream, failed(Step.MOUNT, errno.EACCES, b"/da\x1b[2J\xff"))
        with pytest.raises(GuestRefused) as caught:
            await mounting
        assert (caught.value.step, caught.value.errno) == (Step.MOUNT, errno.EACCES)
        assert caught.value.subject == "/da\x1b[2J\udcff"
        assert str(caught.value) == (
            r"MOUNT failed in the guest at MOUNT: Permission denied ('/da\x1b[2J\udcff')"
        )


@in_loop
async def test_a_late_answer_disturbs_nothing() -> None:
    async with raw_guest() as (connection, guest):
        with pytest.raises(GuestSilent, match=r"did not answer PING within 0\.01 s"):
            await connection.ping(deadline_s=0.01)
        late = (await guest.next(Kind.PING)).stream
        cancelled = asyncio.create_task(connection.sync())
        syncing = (await guest.next(Kind.SYNC)).stream
        cancelled.cancel()
        pinging = asyncio.create_task(connection.ping())
        in_time = (await guest.next(Kind.PING)).stream
        await guest.send(Kind.PONG, late)
        await guest.send(Kind.DONE, syncing, done())
        await guest.send(Kind.PONG, in_time)
        assert await pinging > 0
        assert cancelled.cancelled()


@in_loop
async def test_requests_at_once_find_their_own_answers() -> None:
    async with raw_guest() as (connection, guest):
        reports = [asyncio.create_task(connection.report()) for _ in range(50)]
        streams = [(await guest.next(Kind.REPORT)).stream for _ in reports]
        assert len(set(streams)) == 50
        for stream in reversed(streams):
            await guest.send(Kind.REPORTED, stream, struct.pack("<QQQQII", stream, 0, 0, 0, 0, 0))
        answers = [report.memory_total for report in await asyncio.gather(*reports)]
        assert answers == streams


@in_loop
async def test_no_more_requests_than_the_protocol_allows_are_open_at_once() -> None:
    async with raw_guest() as (connection, guest):
        too_long = GuestCommand(("a",), seccomp=bytes(8 << 20))
        with pytest.raises(ValueError, match="at most 8388608"):  # and it leaves no stream open
            await connection.execute(too_long, stdin=None, stdout=print, stderr=print)
        waiting = [asyncio.create_task(connection.sync()) for _ in range(MAX_STREAMS)]
        await asyncio.sleep(0)
        with pytest.raises(GuestRefused, match="at STREAMS"):
            await connection.sync()
        pinging = asyncio.create_task(connection.ping())  # which takes no place: that it answers can be seen
        for _ in waiting:
            await guest.send(Kind.DONE, (await guest.next(Kind.SYNC)).stream, done())
        await guest.send(Kind.PONG, (await guest.next(Kind.PING)).stream)
        await asyncio.gather(*waiting)
        await pinging


@in_loop
async def test_closing_ends_what_is_waited_for() -> None:
    async with raw_guest() as (connection, guest):
        pinging = asyncio.create_task(connection.ping())
        await guest.next(Kind.PING)
        await connection.close()
        await connection.close()
        with pytest.raises(GuestLost, match="it was closed from here"):
            await pinging
        with pytest.raises(EOFError):
            await guest.frame()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (struct.pack("<IIQI", 0x4158434D, VERSION + 1, 0, 0), f"speaks version {VERSION + 1} of protocol"),
        (struct.pack("<IIQI", 1, VERSION, 0, 0), f"of protocol 0x1, not {VERSION}"),
        (WELCOME[:-1], "20 bytes were expected, 19 came"),
        (None, "it hung up"),
    ],
)
@in_loop
async def test_a_greeting_that_is_not_answered_closes_the_socket(answer: bytes | None, reason: str) -> None:
    ours, theirs = pair()
    guest = RawGuest(theirs)
    opening = asyncio.create_task(GuestConnection.open(ours, deadline_s=10))
    await guest.next(Kind.HELLO)
    if answer is None:
        theirs.close()
    else:
        await guest.send(Kind.WELCOME, 0, answer)
    with pytest.raises(GuestLost, match=re.escape(reason)):
        await opening
    assert ours.fileno() == -1
    theirs.close()


@in_loop
async def test_a_guest_that_never_answers_the_greeting_is_given_up() -> None:
    ours, theirs = pair()
    with pytest.raises(GuestSilent, match="HELLO"):
        await GuestConnection.open(ours, deadline_s=0.01)
    assert ours.fileno() == -1
    theirs.close()


def test_two_identities_have_nothing_in_common() -> None:
    one, two = new_identity(), new_identity()
    assert abs(one.realtime_ns - time.time_ns()) < 10**9 * 60
    assert len(one.random) == 64
    assert one.random != two.random
    assert re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", one.machine_id)
    assert one.machine_id != two.machine_id
    assert (len(one.mac), one.mac[0] & 3) == (6, 2)
    assert one.mac != two.mac
    assert re.fullmatch(r"vm-[0-9a-f]{8}", one.hostname)
    assert one.hostname != two.hostname
    assert new_identity("fixed").hostname == "fixed"
