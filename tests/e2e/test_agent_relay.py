"""One real agent, many hosts: each has its own streams, and nobody can do the others harm."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import subprocess
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from backends.agent.connection import GuestConnection
from backends.agent.errors import GuestLost, GuestRefused
from backends.agent.relay import Relay
from backends.inside import agent_codec
from backends.inside.agent_protocol import Frame, GuestCommand, GuestFiles, GuestMount, Kind, Step
from tests.guests import in_loop
from tests.unit.agent_client import PATH, UNSHARE, agent_path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces without a user namespace are root's")

DEADLINE_S = 20


@contextlib.asynccontextmanager
async def relayed() -> AsyncGenerator[Relay]:
    ours, theirs = socket.socketpair()
    agent = subprocess.Popen(
        [*UNSHARE, str(agent_path()), str(theirs.fileno())],
        stdin=subprocess.DEVNULL,
        pass_fds=[theirs.fileno()],
        env={"PATH": os.environ["PATH"]},
    )
    theirs.close()
    try:
        relay = await Relay.open(ours, deadline_s=DEADLINE_S)
        yield relay
        relay.close()
        await asyncio.to_thread(agent.wait, DEADLINE_S)
    finally:
        agent.kill()
        agent.wait()


def client_socket(relay: Relay) -> socket.socket:
    ours, theirs = socket.socketpair()
    relay.serve(theirs)
    return ours


async def client(relay: Relay) -> GuestConnection:
    return await GuestConnection.open(client_socket(relay), deadline_s=DEADLINE_S)


async def said(connection: GuestConnection, line: str) -> bytes:
    out = bytearray()
    process = await connection.execute(
        GuestCommand(("sh", "-c", line), env=PATH, user=(0, 0)),
        stdin=None,
        stdout=out.extend,
        stderr=out.extend,
    )
    await process.wait(deadline_s=DEADLINE_S)
    return bytes(out)


@in_loop
async def test_each_client_has_its_own_programs_and_files(tmp_path: Path) -> None:
    async with relayed() as relay:
        clients = [await client(relay) for _ in range(16)]
        lines = await asyncio.gather(
            *(said(one, f"echo {n}; sleep 0.1") for n, one in enumerate(clients) for _ in "ab")
        )
        assert lines == [b"%d\n" % (n // 2) for n in range(32)]
        assert not relay.busy
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            entry = tarfile.TarInfo("file")
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"abc"))
        files = GuestFiles(str(tmp_path / "put"))
        assert (await clients[0].put(files, [packed.getvalue()])).bytes == 3
        assert await said(clients[1], f"cat {tmp_path}/put/file") == b"abc"
        assert b"abc" in b"".join([piece async for piece in clients[2].get(files)])
        assert (await clients[3].report()).streams == 0
        for one in clients:
            await one.close()


@in_loop
async def test_what_a_client_runs_ends_with_it_and_nothing_else_does() -> None:
    async with relayed() as relay:
        going, staying = await client(relay), await client(relay)
        idle = asyncio.Event()
        relay.when_idle = idle.set
        for connection in (going, staying):
            await connection.execute(
                GuestCommand(("sleep", "300" if connection is going else "301"), env=PATH),
                stdin=None, stdout=len, stderr=len,
            )  # fmt: skip
        await going.close()
        programs = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
        async with asyncio.timeout(DEADLINE_S):
            while b"sleep 300" in await said(staying, programs):
                await asyncio.sleep(0.02)
        assert b"sleep 301" in await said(staying, programs)
        assert not idle.is_set()
        await staying.close()
        await asyncio.wait_for(idle.wait(), DEADLINE_S)


@in_loop
async def test_one_who_takes_nothing_holds_nobody_up() -> None:
    async with relayed() as relay:
        deaf = client_socket(relay)
        deaf.sendall(agent_codec.encode_frame(Frame(Kind.HELLO, 0, agent_codec.hello())))
        flood = agent_codec.command(GuestCommand(("cat", "/dev/zero"), env=PATH))
        for stream in range(1, 5):
            deaf.sendall(agent_codec.encode_message(Kind.EXEC, stream, flood))
        other = await client(relay)
        assert await said(other, "head -c 3000000 /dev/zero | wc -c") == b"3000000\n"
        deaf.close()
        async with asyncio.timeout(DEADLINE_S):
            while relay.busy:
                await asyncio.sleep(0.02)
        await other.close()


@in_loop
async def test_nobody_changes_the_sandbox_for_others() -> None:
    async with relayed() as relay:
        changing, other = await client(relay), await client(relay)
        with pytest.raises(GuestLost):
            await changing.mount(GuestMount("/mnt", file_system="tmpfs"))
        changing = await client(relay)
        changing.signal_everything(9)
        with pytest.raises(GuestLost):
            await changing.ping()
        assert await said(other, "echo fine") == b"fine\n"
        with pytest.raises(GuestRefused) as caught:
            await other.execute(GuestCommand(("/no/such",)), stdin=None, stdout=len, stderr=len)
        assert caught.value.step is Step.EXEC
        await other.close()


@in_loop
async def test_every_command_is_under_the_sandboxs_restrictions_whatever_its_client_says() -> None:
    async with relayed() as relay:
        relay.imposed = GuestCommand((), user=(1234, 1235), rlimits=((7, 50, 60),))
        one = await client(relay)
        out = bytearray()
        line = "id -u; id -g; ulimit -Sn; ulimit -Hn; grep CapEff /proc/self/status; echo $A; pwd"
        asked = GuestCommand(
            ("sh", "-c", line), env=(*PATH, ("A", "b")), cwd="/usr", user=(0, 0), privileged=True,
            rlimits=((7, 1000, 1000),),
        )  # fmt: skip
        process = await one.execute(asked, stdin=None, stdout=out.extend, stderr=out.extend)
        await process.wait(deadline_s=DEADLINE_S)
        assert out.split() == [b"1234", b"1235", b"50", b"60", b"CapEff:", b"0" * 16, b"b", b"/usr"]
        await one.close()


WRONG = {
    "no greeting's bytes": Frame(Kind.HELLO, 0, b"12345678"),
    "another side's frame": Frame(Kind.OUTPUT, 1, b"x"),
    "unknown flags": Frame(Kind.REPORT, 9, b"", 4),
    "a channel that is none": Frame(Kind.CREDIT, 1, agent_codec.number(1), 3),
    "a message cut short": Frame(Kind.EXEC, 2, b"123"),
    "a stream twice": Frame(Kind.EXEC, 1, agent_codec.command(GuestCommand(("true",)))),
    "too much input": Frame(Kind.INPUT, 1, bytes(65536)),
    "endless credit": Frame(Kind.CREDIT, 1, agent_codec.number(2**32 - 1), 1),
}


@pytest.mark.parametrize("name", WRONG)
@in_loop
async def test_one_who_breaks_the_rules_is_hung_up_on(name: str) -> None:
    async with relayed() as relay:
        other = await client(relay)
        relay.imposed = GuestCommand((), user=(0, 0))
        sock = client_socket(relay)
        sleep = agent_codec.command(GuestCommand(("sleep", "300"), env=PATH))
        sock.sendall(agent_codec.encode_message(Kind.EXEC, 1, sleep))
        wrong = agent_codec.encode_frame(WRONG[name])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await asyncio.to_thread(sock.sendall, wrong * 6)

        def hung_up() -> bool:
            with contextlib.suppress(ConnectionResetError):
                while sock.recv(65536):
                    pass
            return True

        assert await asyncio.wait_for(asyncio.to_thread(hung_up), DEADLINE_S)
        assert await said(other, "echo fine") == b"fine\n"
        await other.close()
        sock.close()


@in_loop
async def test_all_clients_go_when_the_agent_does() -> None:
    async with relayed() as relay:
        one = await client(relay)
        relay.link.lose("the test has it gone")
        relay.close()
        with pytest.raises(GuestLost):
            await one.ping()
