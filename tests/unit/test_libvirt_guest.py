"""The agent's channel as libvirt leaves it: what others left in it, who may use it, and when it is silent."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.agent.connection import GuestConnection
from backends.errors import LaunchFailed, MxcError
from backends.inside.agent_codec import encode_frame
from backends.inside.agent_protocol import Channel, Frame, Kind
from backends.qemu.libvirt_guest import open_guest
from tests.conftest import User
from tests.guests import WELCOME, RawGuest, done, in_loop

UUID = "6b19eaac-51f0-4123-9b18-612dc4c3feea"
OUTPUT = encode_frame(Frame(Kind.OUTPUT, 3, b"of another's program", Channel.STDOUT))
OTHERS_PONG = encode_frame(Frame(Kind.PONG, 1 << 31 | 5))
OTHERS_WELCOME = encode_frame(Frame(Kind.WELCOME, 0, WELCOME))
LEFT = {
    "nothing": b"",
    "a whole frame": OUTPUT,
    "the rest of a frame": OUTPUT[7:],
    "answers to somebody whom nobody heard": OTHERS_WELCOME + OTHERS_PONG,
    "what looks like a length": b"\xff" * 11,
    "more than one read takes": OUTPUT * 10_000,
}


def code_of(refused: pytest.ExceptionInfo[Any]) -> str:
    error: MxcError = refused.value
    return error.problems[0].code


@asynccontextmanager
async def channel(path: Path, serve: Callable[[RawGuest], Awaitable[None]]) -> AsyncGenerator[None]:
    """A socket like QEMU's: whoever connects is served, one after another."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(1)
        listening.setblocking(False)

        async def one_after_another() -> None:
            while True:
                accepted, _ = await asyncio.get_running_loop().sock_accept(listening)
                with accepted:
                    await serve(RawGuest(accepted))

        task = asyncio.create_task(one_after_another())
        try:
            yield
        finally:
            task.cancel()


async def answer(guest: RawGuest, left: bytes = b"", identities: list[bytes] | None = None) -> None:
    """An agent, whose channel has something `left` in it."""
    await guest.raw(left)
    while True:
        try:
            frame = await guest.frame()
        except (EOFError, ConnectionResetError):
            return
        if frame.kind is Kind.HELLO:
            await guest.send(Kind.WELCOME, frame.stream, WELCOME)
        elif frame.kind is Kind.PING:
            await guest.send(Kind.PONG, frame.stream)
        else:
            assert frame.kind is Kind.IDENTITY
            if identities is not None:
                identities.append(frame.payload)
            await guest.send(Kind.DONE, frame.stream, done())


async def attach(path: Path, *, deadline_s: float = 10) -> GuestConnection:
    return await open_guest("a", UUID, str(path), deadline_s=deadline_s)


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
@in_loop
async def test_what_others_left_in_the_channel_is_passed_over(tmp_path: Path, left: bytes) -> None:
    async with channel(tmp_path / "s", lambda guest: answer(guest, left)):
        guest = await attach(tmp_path / "s")
        await guest.ping()
        await guest.close()


@in_loop
async def test_the_guest_keeps_its_names_and_gets_new_random_numbers(tmp_path: Path) -> None:
    identities: list[bytes] = []
    async with channel(tmp_path / "s", lambda guest: answer(guest, identities=identities)):
        for _ in range(2):
            guest = await attach(tmp_path / "s")
            await guest.close()
    first, second = identities
    assert first[72:] == second[72:] == uuid.UUID(UUID).hex.encode() + bytes(6) + b"a"
    assert first[8:72] != second[8:72]


@in_loop
async def test_an_agent_is_taken_until_the_connection_ends(tmp_path: Path) -> None:
    async with channel(tmp_path / "s", answer):
        first = await attach(tmp_path / "s")
        with pytest.raises(LaunchFailed, match="another process is talking") as taken:
            await attach(tmp_path / "s")
        assert (code_of(taken), taken.value.retryable) == ("agent_taken", True)
        await first.close()
        await (await attach(tmp_path / "s")).close()


async def flood(guest: RawGuest) -> None:
    while True:
        await guest.raw(OUTPUT)


async def say_nothing(guest: RawGuest) -> None:
    await asyncio.sleep(3600)


async def hang_up(guest: RawGuest) -> None:
    await guest.frame()


async def break_the_protocol(guest: RawGuest) -> None:
    await guest.send(Kind.PONG, (await guest.next(Kind.PING)).stream)
    await guest.raw(b"\xff" * 64)


@pytest.mark.parametrize(
    "serve, code",
    [
        (flood, "agent_silent"),
        (say_nothing, "agent_silent"),
        (hang_up, "agent_lost"),
        (break_the_protocol, "agent_lost"),
    ],
)
@in_loop
async def test_an_agent_that_does_not_answer_is_told_in_time(
    tmp_path: Path, serve: Callable[[RawGuest], Awaitable[None]], code: str
) -> None:
    async with channel(tmp_path / "s", serve):
        with pytest.raises(LaunchFailed, match="the agent of domain a: ") as refused:
            await attach(tmp_path / "s", deadline_s=0.3)
        assert (code_of(refused), refused.value.retryable) == (code, True)
    (tmp_path / "s").unlink()
    async with channel(tmp_path / "s", answer):
        await (await attach(tmp_path / "s")).close()


@in_loop
async def test_a_socket_that_is_gone_and_one_that_nobody_serves(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(tmp_path / "ended"))
    for path in (tmp_path / "gone", tmp_path / "ended", tmp_path / "nowhere" / "s"):
        with pytest.raises(LaunchFailed, match=str(path)) as refused:
            await attach(path)
        assert code_of(refused) == "agent_unreachable"


def test_a_socket_that_is_not_for_us_is_told_with_the_fix(as_user: User, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    code = (
        "import asyncio; from backends.errors import MxcError\n"
        "from backends.qemu.libvirt_guest import open_guest\n"
        f"try: asyncio.run(open_guest('a', {UUID!r}, {str(tmp_path / 's')!r}, deadline_s=1))\n"
        "except MxcError as error: print(type(error).__name__, error.problems[0].code, 'sudo' in error.fix)"
    )
    done = as_user(code)
    assert done.stdout == "BackendUnavailable agent_denied True\n", done.stderr
