"""`AsyncSession` on real sandboxes: what an event loop may wait for, and what is left when it does not."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backends.errors import MxcError
from backends.sessions import Scope
from mxc_ops import AsyncProcess, AsyncSession, ConfigError, LaunchFailed, Policy, PolicyRefused, Session

pytestmark = pytest.mark.backend("bubblewrap")

DEADLINE_S = 60
ECHO = "while read line; do echo got $line; done; echo bye >&2; exit 4"
SERVER = (
    'use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 8080,'
    ' Listen => 1) or die; print "up\\n"; $| = 1; my $c = $s->accept; print $c "hello\\n";'
)


@pytest.fixture(scope="module")
def kept() -> Iterator[Session]:
    with Session.open(Policy(containment="bubblewrap", host_loopback=True)) as opened:
        yield opened


def within(kept: Session, use: Callable[[AsyncSession], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(use(await AsyncSession.attach(kept.id)), DEADLINE_S)

    asyncio.run(main())


async def until(holds: Callable[[], Awaitable[object]]) -> None:
    while not await holds():
        await asyncio.sleep(0.02)


def test_a_command_that_nobody_is_attached_to(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        job = (await session.detach(["sh", "-c", "echo $A; pwd; exit 5"], env={"A": "b"}, cwd="/usr"))["job"]
        assert os.waitstatus_to_exitcode((await session.wait(job))["status"]) == 5
        assert await session.log(job, "out") == (b"b\n/usr\n", 7)
        assert await session.log(job, "out", 2) == (b"/usr\n", 7)
        endless = (await session.detach(["sleep", "600"]))["job"]
        waiting = asyncio.ensure_future(session.wait(endless))
        assert (await session.job(endless))["status"] is None
        assert [one["job"] for one in await session.jobs()][-2:] == [job, endless]
        await session.kill(endless, signal.SIGKILL)
        assert (await waiting)["status"] == signal.SIGKILL
        with pytest.raises(LaunchFailed) as caught:
            await session.wait(99)
        assert caught.value.problems[0].code == "no_such_job"

    within(kept, use)


def test_whoever_waits_for_many_keeps_nobody_from_anything(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        jobs = [(await session.detach(["sleep", "600"]))["job"] for _ in range(40)]
        waits = [asyncio.ensure_future(session.wait(job)) for job in jobs]
        for job in jobs:
            await session.kill(job, signal.SIGKILL)
        assert {end["status"] for end in await asyncio.gather(*waits)} == {signal.SIGKILL}

    within(kept, use)


def test_whoever_is_cancelled_while_waiting_leaves_the_command_alone_and_nothing_else(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        job = (await session.detach(["sleep", "600"]))["job"]
        before = sockets()
        waiting = asyncio.ensure_future(session.wait(job))

        async def is_connected() -> bool:
            return sockets() > before

        await until(is_connected)
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await session.job(job))["status"] is None

        async def is_as_before() -> bool:
            return sockets() <= before

        await until(is_as_before)
        again = asyncio.ensure_future(session.wait(job))
        await session.kill(job, signal.SIGKILL)
        assert (await again)["status"] == signal.SIGKILL

    within(kept, use)


def sockets() -> int:
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the list itself
            count += str(descriptor.readlink()).startswith("socket:")
    return count


def test_a_wait_ends_with_the_sandbox() -> None:
    async def main() -> None:
        async with await AsyncSession.open("bubblewrap") as session:
            job = (await session.detach(["sleep", "600"]))["job"]
            waiting = asyncio.ensure_future(session.wait(job))
            await session.exec("true")
            await session.stop()
            await asyncio.wait({waiting}, timeout=DEADLINE_S)
            assert waiting.done()
            error = waiting.exception()
            assert isinstance(error, MxcError) or waiting.result()["lost"]

    asyncio.run(main())


def test_a_port_leads_in_until_it_is_closed(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        server = (await session.detach(["perl", "-e", f"$| = 1; {SERVER}"]))["job"]

        async def is_up() -> bool:
            return (await session.log(server, "out"))[0] == b"up\n"

        await until(is_up)
        port = await session.port(8080)
        assert [(one["host"], one["inside"]) for one in await session.ports()] == [(port, 8080)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b"hello\n"
        writer.close()
        await session.close_port(port)
        assert await session.ports() == []

    within(kept, use)


def test_no_port_is_left_of_a_call_that_was_cancelled(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        opening = asyncio.ensure_future(session.port(8080))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert await session.ports() == []

    within(kept, use)


def test_copies_and_snapshots() -> None:
    async def main() -> None:
        async with await AsyncSession.open("bubblewrap") as session:
            assert session.containment == session.document["containment"] == "bubblewrap"
            await session.exec("echo kept > /tmp/left")
            snapshot = await session.snapshot("before")
            assert await session.snapshots() == [snapshot]
            await session.exec("echo changed > /tmp/left")
            for source, content in (("", b"changed\n"), ("before", b"kept\n")):
                forks = await session.fork(2, snapshot=source)
                assert isinstance(forks.scope, Scope)
                assert forks.scope.copied == ("/tmp", "/dev/shm")
                assert len({fork.id for fork in forks.sessions}) == 2
                for fork in forks.sessions:
                    async with fork:
                        assert (await fork.exec(["cat", "/tmp/left"])).stdout == content
            await session.remove_snapshot("before")
            assert await session.snapshots() == []

    asyncio.run(main())


def test_what_is_more_than_may_be_copied_is_refused(kept: Session, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))

    async def use(session: AsyncSession) -> None:
        with pytest.raises(PolicyRefused):
            await session.put(str(tmp_path / "large"), "/tmp/large", max_mib=1)
        await session.put(str(tmp_path / "large"), "/tmp/large", max_mib=2)
        with pytest.raises(PolicyRefused):
            await session.get("/tmp/large", str(tmp_path / "back"), max_mib=1)

    within(kept, use)


def test_a_dialogue_over_the_pipes(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        async with await session.spawn(ECHO) as process:
            for word in (b"one", b"two"):
                process.stdin.write(word + b"\n")
                await process.stdin.drain()
                assert await process.stdout.readline() == b"got " + word + b"\n"
            assert await process.poll() is None
            process.stdin.close()
            result = await process.wait()
        assert (result.exit_code, result.stdout, result.stderr) == (4, b"", b"bye\n")

    within(kept, use)


def test_wait_collects_what_nobody_read_up_to_the_cap(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        async with await session.spawn("cat; head -c 3000000 /dev/zero", max_output_bytes=1000) as process:
            first, again = await asyncio.gather(process.wait(), process.wait())
        assert (len(first.stdout), first.stdout_dropped_bytes) == (1000, 2_999_000)
        assert again is first

    within(kept, use)


def test_chunks_arrive_with_their_streams_name_while_the_command_runs(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        async with await session.spawn("echo a; read line; echo b >&2; read line; echo c") as process:
            seen: list[tuple[str, bytes]] = []
            async for chunk in process.chunks():
                seen.append(chunk)
                process.stdin.write(b"go on\n")
            assert (await process.wait()).exit_code == 0
        assert seen == [("stdout", b"a\n"), ("stderr", b"b\n"), ("stdout", b"c\n")]

    within(kept, use)


def test_who_stops_reading_chunks_takes_no_more_of_them(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        async with await session.spawn("exec yes") as process:
            async for _, chunk in process.chunks():
                assert chunk.startswith(b"y\n")
                break
            assert (await process.wait()).signal == signal.SIGPIPE

    within(kept, use)


def test_descriptors_that_were_handed_over_are_no_pipes(kept: Session, tmp_path: Path) -> None:
    async def use(session: AsyncSession) -> None:
        with (tmp_path / "out").open("wb") as file:
            async with await session.spawn("echo written", stdout=file) as process:
                with pytest.raises(ConfigError):
                    _ = process.stdout
                await process.wait()
        assert (tmp_path / "out").read_bytes() == b"written\n"

    within(kept, use)


def test_a_terminal_is_typed_to_and_resized(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        line = (
            "stty -echo; echo up; read x; while stty size | grep -q '^24 80'; do sleep 0.02; done; stty size"
        )
        async with await session.spawn(line, policy=session.policy(tty=True)) as process:
            assert await process.stdout.readline() == b"up\r\n"
            process.stdin.write(b"x\n")
            reading = asyncio.ensure_future(process.stdout.read())
            process.resize(30, 90)
            assert (await reading).endswith(b"30 90\r\n")
            assert (await process.wait()).exit_code == 0

    within(kept, use)


async def runs(session: AsyncSession, mark: str) -> bool:
    seen = await session.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    return mark.encode() in seen.stdout


async def cancelled(process: AsyncProcess) -> None:
    waiting = asyncio.ensure_future(process.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await process.wait()).signal == signal.SIGKILL


async def left(process: AsyncProcess) -> None:
    async with process:
        pass


@pytest.mark.parametrize(("mark", "end"), [("sleep 611", cancelled), ("sleep 612", left)])
def test_nothing_runs_on_when_a_wait_is_cancelled_or_the_block_is_left(
    kept: Session, mark: str, end: Callable[[AsyncProcess], Awaitable[None]]
) -> None:
    async def use(session: AsyncSession) -> None:
        process = await session.spawn(mark.split())
        assert await runs(session, mark)
        await end(process)
        assert not await runs(session, mark)

    within(kept, use)


def test_a_signal_and_the_timeout_reach_it(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        line = "trap 'echo caught; exit 5' USR1; echo up; while :; do sleep 0.05; done"
        async with await session.spawn(line) as process:
            assert await process.stdout.readline() == b"up\n"
            process.signal(signal.SIGUSR1)
            assert await process.stdout.readline() == b"caught\n"
            ended = await process.poll(DEADLINE_S)
            assert ended is not None and ended.exit_code == 5
        async with await session.spawn("sleep 600", policy=session.policy(timeout_s=0.2)) as process:
            assert (await process.wait()).timed_out

    within(kept, use)


def test_nothing_is_left_of_a_spawn_that_was_cancelled(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        spawning = asyncio.ensure_future(session.spawn(["sleep", "613"]))
        await asyncio.sleep(0)
        spawning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await spawning
        assert not await runs(session, "sleep 613")

    within(kept, use)


def test_a_prepared_command_is_launched_by_whoever_has_it(kept: Session) -> None:
    async def use(session: AsyncSession) -> None:
        with await session.prepared("true") as prepared:
            assert prepared.plan.as_dict()["session"] == session.id

    within(kept, use)
