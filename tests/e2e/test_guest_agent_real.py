"""The host side of the agent and the real agent, process 1 of namespaces of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import pty
import signal
import socket
import subprocess
import tarfile
from collections.abc import AsyncGenerator, Callable

import pytest

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestLost, GuestRefused
from backends.inside.agent_protocol import Channel, GuestCommand, GuestFiles, GuestMount, MountFlag, Step
from tests.guests import in_loop
from tests.unit.agent_client import PATH, UNSHARE, agent_path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces without a user namespace are root's")

NOTHING: Callable[[memoryview], object] = len


@contextlib.asynccontextmanager
async def real_agent() -> AsyncGenerator[GuestConnection]:
    ours, theirs = socket.socketpair()
    agent = subprocess.Popen(
        [*UNSHARE, str(agent_path()), str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env={"PATH": os.environ["PATH"]},
    )
    theirs.close()
    try:
        connection = await GuestConnection.open(ours, deadline_s=20)
        yield connection
        await connection.close()
        await asyncio.to_thread(agent.wait, 20)
    finally:
        agent.kill()
        agent.wait()


def shell(text: str, **more: object) -> GuestCommand:
    return GuestCommand(("sh", "-c", text), env=PATH, **more)  # pyright: ignore[reportArgumentType]


async def run(
    connection: GuestConnection, command: GuestCommand, stdin: int | None = None
) -> tuple[int, bytes, bytes]:
    out, err = bytearray(), bytearray()
    process = await connection.execute(command, stdin=stdin, stdout=out.extend, stderr=err.extend)
    end = await process.wait(deadline_s=15)
    return os.waitstatus_to_exitcode(end.status), bytes(out), bytes(err)


@in_loop
async def test_the_agent_answers_as_the_protocol_says() -> None:
    async with real_agent() as connection:
        assert await connection.ping() > 0
        report = await connection.report()
        assert report.memory_total > report.memory_available > 0
        await connection.sync()
        assert await run(connection, shell("echo out; echo err >&2; exit 7")) == (7, b"out\n", b"err\n")
        with pytest.raises(GuestRefused) as refused:
            await run(connection, GuestCommand(("no-such-program",), env=PATH))
        assert (refused.value.step, refused.value.errno) == (Step.EXEC, errno.ENOENT)
        with pytest.raises(GuestRefused) as refused:
            await connection.mount(GuestMount("/proc/none/here", file_system="tmpfs"))
        assert refused.value.step is Step.MOUNT_POINT


@in_loop
async def test_many_programs_run_at_once_each_with_its_own_streams() -> None:
    async with real_agent() as connection:

        async def one(number: int) -> tuple[int, bytes, bytes]:
            read, write = os.pipe()
            os.write(write, b"%d\n" % number)
            os.close(write)
            try:
                return await run(connection, shell("read n; echo $n; echo $n >&2; exit $n"), read)
            finally:
                os.close(read)

        results = await asyncio.gather(*map(one, range(50)))
        assert results == [(number, b"%d\n" % number, b"%d\n" % number) for number in range(50)]


@in_loop
async def test_much_goes_in_and_comes_out_unharmed() -> None:
    content = os.urandom(1 << 16) * 128
    source = os.memfd_create("content")
    os.write(source, content)
    os.lseek(source, 0, os.SEEK_SET)
    async with real_agent() as connection:
        status, out, _ = await run(connection, shell("cat"), source)
        assert (status, out == content) == (0, True)
    os.close(source)


@in_loop
async def test_a_consumer_that_goes_ends_the_program_as_a_closed_pipe_does() -> None:
    read, write = os.pipe()
    async with real_agent() as connection:
        process = await connection.execute(
            GuestCommand(("yes",), env=PATH), stdin=None, stdout=write, stderr=NOTHING
        )
        assert (await asyncio.to_thread(os.read, read, 4)).startswith(b"y\n")
        os.close(read)
        end = await process.wait(deadline_s=15)
        assert os.waitstatus_to_exitcode(end.status) == -signal.SIGPIPE
        assert process.output_errors[Channel.STDOUT].errno == errno.EPIPE
        assert await connection.ping() > 0
    os.close(write)


@in_loop
async def test_signals_reach_the_program() -> None:
    async with real_agent() as connection:
        process = await connection.execute(
            GuestCommand(("sleep", "60"), env=PATH), stdin=None, stdout=NOTHING, stderr=NOTHING
        )
        process.signal(signal.SIGTERM)
        end = await process.wait(deadline_s=15)
        assert os.waitstatus_to_exitcode(end.status) == -signal.SIGTERM


@in_loop
async def test_a_terminal_of_the_guest_behind_one_of_the_host() -> None:
    master, slave = pty.openpty()
    async with real_agent() as connection:
        process = await connection.execute(
            shell("read a; stty size; echo got $a", tty=(33, 99)), stdin=slave, stdout=slave, stderr=slave
        )
        process.resize(44, 111)
        os.write(master, b"this\n")
        await process.wait(deadline_s=15)
        seen = b""
        while b"got this" not in seen:
            seen += await asyncio.to_thread(os.read, master, 1000)
        assert b"44 111" in seen
    os.close(master)
    os.close(slave)


def archive(**files: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


@in_loop
async def test_files_go_in_and_come_back() -> None:
    async with real_agent() as connection:
        await connection.mount(GuestMount("/mnt", file_system="tmpfs", flags=MountFlag.NO_SUID))
        big = os.urandom(3 << 20)
        sent = await connection.put(
            GuestFiles("/mnt", owner=(1000, 1000)), [archive(small=b"hello", big=big)]
        )
        assert sent.bytes == len(big) + 5
        assert await run(connection, shell("cat /mnt/small; stat -c ' %u' /mnt/big")) == (
            0,
            b"hello 1000\n",
            b"",
        )
        pieces = [piece async for piece in connection.get(GuestFiles("/mnt"))]
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            got = {entry.name: tar.extractfile(entry) for entry in tar if entry.isfile()}
            read = {name.removeprefix("./"): file.read() for name, file in got.items() if file is not None}
        assert read == {"small": b"hello", "big": big}
        stopped = connection.get(GuestFiles("/mnt"))
        assert await anext(stopped)
        await stopped.aclose()
        with pytest.raises(GuestRefused):
            await connection.put(GuestFiles("/mnt"), [b"no archive" * 1000])
        assert await connection.ping() > 0
        async with asyncio.timeout(15):  # the one that was stopped ends when its child has seen it
            while (await connection.report()).streams:
                await asyncio.sleep(0.01)


@in_loop
async def test_an_agent_that_powers_off_ends_what_waits_for_it() -> None:
    async with real_agent() as connection:
        process = await connection.execute(
            GuestCommand(("sleep", "60"), env=PATH), stdin=None, stdout=NOTHING, stderr=NOTHING
        )
        await connection.power_off(deadline_s=10)
        with pytest.raises(GuestLost, match="it hung up"):
            await process.wait(deadline_s=15)
