"""Programs in a guest: their streams reach the caller's descriptors, at the consumer's pace and unharmed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import pty
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.agent.errors import GuestLost, GuestRefused, GuestSilent
from backends.agent.process import GuestProcess
from backends.inside.agent_protocol import WINDOW, Channel, GuestCommand, Kind
from tests.guests import Program, ended, fake_guest, in_loop, raw_guest

NOTHING: Callable[[memoryview], object] = len


async def cat(program: Program) -> int:
    while data := await program.read():
        await program.write(data)
    return 3


async def yes(program: Program) -> int:
    """Writes until nobody reads."""
    while await program.write(b"y\n" * 32768):
        pass
    return signal.SIGPIPE


async def both(program: Program) -> int:
    await program.write(b"out", Channel.STDOUT)
    await program.write(b"err", Channel.STDERR)
    return 0


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


async def read_all(fd: int) -> bytes:
    """All that comes, read elsewhere: the loop must not be what empties it."""
    parts: list[bytes] = []
    while part := await asyncio.to_thread(os.read, fd, 65536):
        parts.append(part)
    return b"".join(parts)


@in_loop
async def test_output_and_error_output_stay_apart() -> None:
    async with fake_guest(both=both) as (connection, _):
        out, err = bytearray(), bytearray()
        process = await connection.execute(
            GuestCommand(("both",)), stdin=None, stdout=out.extend, stderr=err.extend
        )
        end = await process.wait()
        assert (out, err, process.pid, end.status) == (b"out", b"err", 101, 0)
        assert (end.user_us, end.system_us, end.max_rss_kib) == (1000, 2000, 3000)


@in_loop
async def test_a_program_that_is_not_there_is_refused() -> None:
    async with fake_guest() as (connection, _):
        with pytest.raises(GuestRefused, match=r"EXEC failed in the guest at EXEC: No such file.*'nope'"):
            await connection.execute(GuestCommand(("nope",)), stdin=None, stdout=NOTHING, stderr=NOTHING)
        assert await connection.ping() > 0


@pytest.mark.parametrize("kind", ["file", "pipe", "socket"])
@in_loop
async def test_a_few_megabytes_go_through_a_program_and_back(kind: str, tmp_path: Path) -> None:
    content = os.urandom(1 << 16) * 48
    sent = tmp_path / "sent"
    sent.write_bytes(content)
    received = tmp_path / "received"
    with contextlib.ExitStack() as stack:
        read, write = ends(kind, sent, stack)
        into, out = ends(kind, received, stack)
        feeding = asyncio.create_task(asyncio.to_thread(feed, write, content)) if kind != "file" else None
        taking = asyncio.create_task(read_all(into)) if kind != "file" else None
        async with fake_guest(cat=cat) as (connection, _):
            process = await connection.execute(GuestCommand(("cat",)), stdin=read, stdout=out, stderr=NOTHING)
            assert (await process.wait()).status == 3
        os.close(out)
        if feeding is not None:
            await feeding
        got = received.read_bytes() if taking is None else await taking
    assert hashlib.sha256(got).digest() == hashlib.sha256(content).digest()


def ends(kind: str, file: Path, stack: contextlib.ExitStack) -> tuple[int, int]:
    """(to read from, to write to)"""
    if kind == "file":
        read, write = (os.open(file, flags) for flags in (os.O_RDONLY | os.O_CREAT, os.O_WRONLY))
    elif kind == "pipe":
        read, write = os.pipe()
    else:
        read, write = (end.detach() for end in socket.socketpair())
    stack.callback(close_all, read, write)
    return read, write


def not_again(fd: int, mode: int, access: int) -> None:
    """As where a process has no right to."""


def close_all(*fds: int) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def feed(fd: int, content: bytes) -> None:
    with os.fdopen(fd, "wb") as file:
        file.write(content)


@in_loop
async def test_one_descriptor_may_be_all_three() -> None:
    """As a terminal, or a socket under a server, is."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    async with fake_guest(cat=cat, both=both) as (connection, _):
        fd = theirs.fileno()
        process = await connection.execute(GuestCommand(("both",)), stdin=fd, stdout=fd, stderr=fd)
        await process.wait()
        assert ours.recv(6, socket.MSG_WAITALL) == b"outerr"
        os.write(ours.fileno(), b"again")
        process = await connection.execute(GuestCommand(("cat",)), stdin=fd, stdout=fd, stderr=fd)
        ours.shutdown(socket.SHUT_WR)
        await process.wait()
        assert ours.recv(10) == b"again"
    ours.close()
    theirs.close()


@in_loop
async def test_no_descriptor_of_the_caller_is_made_non_blocking(pipe: tuple[int, int]) -> None:
    master, slave = pty.openpty()
    async with fake_guest(cat=cat) as (connection, _):
        process = await connection.execute(GuestCommand(("cat",)), stdin=slave, stdout=slave, stderr=pipe[1])
        os.write(master, b"a line\n")
        seen = b""
        while seen.count(b"a line") < 2:  # the terminal's echo, then the program's
            seen += await asyncio.to_thread(os.read, master, 100)
        for fd in (slave, master, pipe[1]):
            assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
        os.write(master, b"\4")
        await process.wait()
    os.close(master)
    os.close(slave)


@in_loop
async def test_nothing_stays_open_after_a_program(pipe: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"some")
    file = os.open(tmp_path / "in", os.O_RDONLY)
    async with fake_guest(cat=cat) as (connection, _):
        before = sorted(Path("/proc/self/fd").iterdir())
        for source in (file, pipe[0], None):
            process = await connection.execute(
                GuestCommand(("cat",)), stdin=source, stdout=pipe[1], stderr=file
            )
            with contextlib.suppress(GuestSilent):
                await process.wait(deadline_s=0.05 if source == pipe[0] else None)
            process.discard()
        with pytest.raises(OSError, match="Bad file"):
            await connection.execute(GuestCommand(("cat",)), stdin=None, stdout=pipe[1], stderr=999)
        assert sorted(Path("/proc/self/fd").iterdir()) == before
    os.close(file)


@pytest.mark.parametrize("mode", ["pipe", "pipe without a second opening", "socket"])
@in_loop
async def test_a_slow_consumer_holds_the_program_up_and_nobody_else(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "pipe without a second opening":
        monkeypatch.setattr("backends.agent.descriptors._open_again", not_again)
    with contextlib.ExitStack() as stack:
        read, write = ends("socket" if mode == "socket" else "pipe", Path(), stack)
        sent = 0

        async def flood(program: Program) -> int:
            nonlocal sent
            while await program.write(b"x" * 1000):
                sent += 1000
            return signal.SIGPIPE

        async with fake_guest(flood=flood, both=both) as (connection, _):
            process = await connection.execute(
                GuestCommand(("flood",)), stdin=None, stdout=write, stderr=NOTHING
            )
            others = [await connection.ping() for _ in range(200)]
            assert len(others) == 200
            room = 1 << 20 if mode == "socket" else 65536  # what the kernel itself holds, generously
            assert sent <= WINDOW + room
            stalled = sent
            other = await connection.execute(
                GuestCommand(("both",)), stdin=None, stdout=NOTHING, stderr=NOTHING
            )
            assert (await other.wait()).status == 0
            for _ in range(40):
                await asyncio.to_thread(os.read, read, 65536)
            await connection.ping()
            assert sent > stalled
            os.close(read)
            assert (await process.wait()).status == signal.SIGPIPE
            assert process.output_errors[Channel.STDOUT].errno in (errno.EPIPE, errno.ECONNRESET)


@in_loop
async def test_a_consumer_that_has_gone_closes_the_programs_output(pipe: tuple[int, int]) -> None:
    async with fake_guest(yes=yes) as (connection, _):
        os.close(pipe[0])
        process = await connection.execute(GuestCommand(("yes",)), stdin=None, stdout=pipe[1], stderr=NOTHING)
        assert (await process.wait()).status == signal.SIGPIPE
        assert process.output_errors[Channel.STDOUT].errno == errno.EPIPE


@in_loop
async def test_a_full_disk_ends_the_output_and_is_told() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    async with fake_guest(yes=yes) as (connection, _):
        process = await connection.execute(GuestCommand(("yes",)), stdin=None, stdout=full, stderr=NOTHING)
        await process.wait()
        assert process.output_errors[Channel.STDOUT].errno == errno.ENOSPC
    os.close(full)


@in_loop
async def test_input_is_read_no_further_than_the_guest_takes_it() -> None:
    zero = os.open("/dev/zero", os.O_RDONLY)
    async with raw_guest() as (connection, guest):
        starting = asyncio.create_task(
            connection.execute(GuestCommand(("a",)), stdin=zero, stdout=NOTHING, stderr=NOTHING)
        )
        stream = await guest.starts()
        process = await starting
        received = 0
        while received < WINDOW:
            received += len((await guest.next(Kind.INPUT)).payload)
        pinging = asyncio.create_task(connection.ping())
        frame = await guest.frame()
        assert (received, frame.kind) == (WINDOW, Kind.PING)
        await guest.send(Kind.PONG, frame.stream)
        await pinging
        await guest.send(Kind.INPUT_CREDIT, stream, (10).to_bytes(4, "little"))
        assert len((await guest.frame()).payload) == 10
        await guest.send(Kind.INPUT_CLOSED, stream)
        await guest.send(Kind.ENDED, stream, ended())
        await process.wait()
    os.close(zero)


@in_loop
async def test_signals_and_sizes_reach_the_program_until_its_end() -> None:
    seen: list[object] = []

    async def trap(program: Program) -> int:
        seen.append(await program.signals.get())
        seen.append(await program.signals.get())
        seen.extend(program.sizes)
        return 0

    async with fake_guest(trap=trap) as (connection, guest):
        process = await connection.execute(
            GuestCommand(("trap",), tty=(24, 80)), stdin=None, stdout=NOTHING, stderr=NOTHING
        )
        process.resize(50, 132)
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGUSR1)
        await process.wait()
        assert seen == [(signal.SIGTERM, 0), (signal.SIGUSR1, 0), (50, 132)]
        process.signal(signal.SIGKILL)
        await connection.ping()
        assert [frame.kind for frame in guest.asked if frame.kind is Kind.SIGNAL] == []


@in_loop
async def test_a_program_that_nobody_waits_for_is_killed_once_it_runs() -> None:
    async with raw_guest() as (connection, guest):
        starting = asyncio.create_task(
            connection.execute(GuestCommand(("a",)), stdin=None, stdout=NOTHING, stderr=NOTHING)
        )
        stream = (await guest.message(Kind.EXEC)).stream
        starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled()
        await guest.send(Kind.STARTED, stream, (7).to_bytes(4, "little"))
        await guest.send(Kind.OUTPUT, stream, b"to nobody", Channel.STDOUT)
        kill = await guest.next(Kind.SIGNAL)
        assert (kill.stream, kill.payload[0]) == (stream, signal.SIGKILL)
        await guest.send(Kind.ENDED, stream, ended(signal.SIGKILL))
        pinging = asyncio.create_task(connection.ping())
        await guest.send(Kind.PONG, (await guest.next(Kind.PING)).stream)
        assert await pinging > 0


@in_loop
async def test_waiting_can_be_given_up_and_taken_up_again() -> None:
    release = asyncio.Event()

    async def wait(program: Program) -> int:
        await release.wait()
        return 5

    async with fake_guest(wait=wait) as (connection, _):
        process = await connection.execute(
            GuestCommand(("wait",)), stdin=None, stdout=NOTHING, stderr=NOTHING
        )
        with pytest.raises(GuestSilent):
            await process.wait(deadline_s=0.01)
        waiting = asyncio.create_task(process.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        release.set()
        assert (await process.wait()).status == 5


@in_loop
async def test_what_came_before_a_guest_died_still_reaches_a_slow_consumer(pipe: tuple[int, int]) -> None:
    async with raw_guest() as (connection, guest):
        starting = asyncio.create_task(
            connection.execute(GuestCommand(("a",)), stdin=None, stdout=pipe[1], stderr=NOTHING)
        )
        stream = await guest.starts()
        process = await starting
        for _ in range(4):
            await guest.send(Kind.OUTPUT, stream, b"x" * 65536, Channel.STDOUT)
        guest.sock.close()
        await connection.lost
        with pytest.raises(GuestSilent):
            await process.wait(deadline_s=0.01)
        os.close(pipe[1])
        taking = asyncio.create_task(read_all(pipe[0]))
        with pytest.raises(GuestLost, match="it hung up"):
            await process.wait()
        assert await taking == b"x" * WINDOW


@in_loop
async def test_an_output_that_others_hold_open_ends_with_the_program() -> None:
    async with raw_guest() as (connection, guest):
        out = bytearray()
        starting = asyncio.create_task(
            connection.execute(GuestCommand(("a",)), stdin=None, stdout=out.extend, stderr=NOTHING)
        )
        stream = await guest.starts()
        process = await starting
        await guest.send(Kind.OUTPUT, stream, b"last words", Channel.STDOUT)
        await guest.send(Kind.ENDED, stream, ended(9, 1))
        end = await process.wait()
        assert (end.status, end.flags, out) == (9, 1, b"last words")


@in_loop
async def test_fifty_programs_run_at_once() -> None:
    async with fake_guest(cat=cat) as (connection, _):
        pipes = [os.pipe() for _ in range(50)]
        outs = [bytearray() for _ in pipes]

        async def one(number: int) -> int:
            process: GuestProcess = await connection.execute(
                GuestCommand(("cat",)), stdin=pipes[number][0], stdout=outs[number].extend, stderr=NOTHING
            )
            os.write(pipes[number][1], b"%d " % number * 5000)
            close_all(*pipes[number])
            return (await process.wait()).status

        assert await asyncio.gather(*map(one, range(50))) == [3] * 50
        assert [bytes(out) for out in outs] == [b"%d " % number * 5000 for number in range(50)]
