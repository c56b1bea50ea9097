"""A sandbox's agent that was taken over answers a copy: nothing of it lands outside, or in half."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from backends.agent import from_loop
from backends.errors import LaunchFailed, MxcError, PolicyRefused
from backends.inside.agent_protocol import Channel, Kind, Step
from mxc_ops.session import copy_target, copying
from mxc_ops.session.copying import Copied, get, put
from tests.guests import FakeGuest, Program, done, failed, in_loop

END = bytes(1024)


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: object) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size, info.mode = kind, len(content), 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    info.name = name
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


TOP = member(".", tarfile.DIRTYPE)


class Taken(FakeGuest):
    """Answers every GET with `answer`, or as `refusals` say, and keeps what it is put."""

    answer = b""
    refusals: dict[str, tuple[Step, int, str]]

    async def _get(self, stream: int, program: Program) -> None:
        refused = self.refusals.get(program.args[0])
        if refused is not None:
            step, number, subject = refused
            await self.send(Kind.FAILED, stream, failed(step, number, subject.encode()))
            return
        await program.write(self.answer)
        await self.send(Kind.OUTPUT_END, stream, b"", Channel.STDOUT)
        await self.send(Kind.DONE, stream, done())


@asynccontextmanager
async def taken(
    answer: bytes = b"", *, endless: bool = False
) -> AsyncGenerator[tuple[Taken, copying.Connect]]:
    ours, theirs = socket.socketpair()
    guest = Taken(theirs, {})
    guest.answer, guest.refusals = answer, {}
    serving = asyncio.create_task(guest.serve())
    try:
        yield guest, lambda: ours
    finally:
        ours.close()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        theirs.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory to get things into, beside something that must stay as it is."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("kept")
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def untouched(place: Path) -> bool:
    outside = place.parent / "outside"
    return [path.name for path in outside.iterdir()] == ["kept"] and (outside / "kept").read_text() == "kept"


ATTACKS = {
    "parent": TOP + member("./../outside/evil", content=b"x"),
    "parent below": TOP + member("./d", tarfile.DIRTYPE) + member("./d/../../outside/evil", content=b"x"),
    "absolute": TOP + member("/tmp/mxc-ops-evil", content=b"x"),
    "absolute after the dot": TOP + member(".//tmp/mxc-ops-evil", content=b"x"),
    "top that leads up": member("..", tarfile.DIRTYPE) + member("../evil", content=b"x"),
    "name of records": TOP + member("./x", content=b"x", pax_headers={"path": "./../outside/evil"}),
    "through a link": TOP
    + member("./l", tarfile.SYMTYPE, linkname="../outside")
    + member("./l/evil", content=b"x"),
    "link, then a directory": TOP
    + member("./l", tarfile.SYMTYPE, linkname="../outside")
    + member("./l", tarfile.DIRTYPE)
    + member("./l/evil", content=b"x"),
    "over a link": TOP
    + member("./l", tarfile.SYMTYPE, linkname="../outside/kept")
    + member("./l", content=b"x"),
    "link as the top": member(".", tarfile.SYMTYPE, linkname="../outside") + member("./evil", content=b"x"),
    "hard link to outside": TOP + member("./h", tarfile.LNKTYPE, linkname="../outside/kept"),
    "hard link to a file": TOP + member("./h", tarfile.LNKTYPE, linkname="/etc/shadow"),
    "device": TOP + member("./device", tarfile.CHRTYPE, devmajor=1, devminor=1),
    "disk": TOP + member("./device", tarfile.BLKTYPE, devmajor=8, devminor=0),
    "pipe": TOP + member("./pipe", tarfile.FIFOTYPE),
    "device as the top": member(".", tarfile.CHRTYPE),
    "file below a file": TOP + member("./f", content=b"x") + member("./f/evil", content=b"x"),
    "no top": member("./evil", content=b"x"),
    "two tops": TOP + TOP,
    "sparse": TOP + member("./s", tarfile.GNUTYPE_SPARSE),
    "long name": TOP + member("././@LongLink", tarfile.GNUTYPE_LONGNAME, b"../../outside/evil\0"),
    "long component": TOP + member("./" + "x" * 300, content=b"x"),
    "empty": b"",
    "garbage": b"\xa5" * 4096,
}


@pytest.mark.parametrize("attack", [pytest.param(archive, id=name) for name, archive in ATTACKS.items()])
@pytest.mark.parametrize("into", ["existing", "new"])
@in_loop
async def test_nothing_of_a_hostile_archive_lands_anywhere(place: Path, attack: bytes, into: str) -> None:
    destination = place if into == "existing" else place / "new"
    async with taken(attack + END if attack else b"") as (_, connect):
        with pytest.raises(LaunchFailed) as caught:
            await asyncio.to_thread(get, connect, "/inside/thing", str(destination))
    assert caught.value.problems[0].code == "archive_refused"
    assert list(place.iterdir()) == []
    assert untouched(place)
    assert not os.path.lexists("/tmp/mxc-ops-evil")


@pytest.mark.parametrize("name", ["through a link", "hard link to outside", "device", "pipe", "sparse"])
@in_loop
async def test_what_is_refused_is_named(place: Path, name: str) -> None:
    async with taken(ATTACKS[name] + END) as (_, connect):
        with pytest.raises(LaunchFailed) as caught:
            await asyncio.to_thread(get, connect, "/inside/thing", str(place))
    refused = {"through a link": "l/evil", "hard link to outside": "./h", "sparse": "./s"}.get(name, name)
    assert f"{refused}'" in caught.value.problems[0].message
    assert "/inside/thing" in caught.value.problems[0].message


@in_loop
async def test_links_are_made_as_links_and_special_permissions_are_not(place: Path) -> None:
    archive = TOP + member("./l", tarfile.SYMTYPE, linkname="../../outside/kept")
    archive += member("./s", content=b"#!", mode=0o6777) + member("./d", tarfile.DIRTYPE, mode=0o7777)
    async with taken(archive + END) as (_, connect):
        assert await asyncio.to_thread(get, connect, "/w/t", str(place)) == Copied(2, 4)
    assert (place / "t/l").readlink() == Path("../../outside/kept")
    mask = os.umask(0)
    os.umask(mask)
    assert (place / "t/s").stat().st_mode & 0o7777 == 0o777 & ~mask
    assert (place / "t/d").stat().st_mode & 0o7777 == 0o777 & ~mask
    assert (place / "t/s").stat().st_uid == os.geteuid()
    assert untouched(place)


HUGE = {
    "sizes": TOP + member("./a", size=2 << 20) + bytes(2 << 20) + member("./b", content=b"x"),
    "one size": TOP + member("./a", size=1 << 50, content=b""),
}


@pytest.mark.parametrize("archive", [pytest.param(each, id=name) for name, each in HUGE.items()])
@in_loop
async def test_more_than_was_allowed_is_refused(place: Path, archive: bytes) -> None:
    async with taken(archive + END) as (_, connect):
        with pytest.raises(LaunchFailed, match="more than") as caught:
            await asyncio.to_thread(get, connect, "/w/t", str(place), 1)
    assert caught.value.problems[0].code == "archive_refused"
    assert list(place.iterdir()) == []


@in_loop
async def test_an_endless_archive_ends(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "MOST_ENTRIES", 500)
    async with taken() as (guest, connect):
        names = (f"./{number:050}" for number in range(1 << 30))

        async def names_for_ever(stream: int, program: Program) -> None:
            sent = await program.write(TOP)
            while sent:
                sent = await program.write(member(next(names)))

        monkeypatch.setattr(guest, "_get", names_for_ever)
        with pytest.raises(LaunchFailed, match="more than 500 files"):
            await asyncio.to_thread(get, connect, "/w/t", str(place))
    assert list(place.iterdir()) == []


@in_loop
async def test_one_that_drips_is_given_up(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_loop, "PATIENCE_S", 0.1)
    async with taken() as (guest, connect):

        async def drip(stream: int, program: Program) -> None:
            while await program.write(b"."):
                await asyncio.sleep(0.02)

        monkeypatch.setattr(guest, "_get", drip)
        with pytest.raises(LaunchFailed, match="did not answer GET"):
            await asyncio.to_thread(get, connect, "/w/t", str(place))
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("cut", [100, 512, 700, 1100, 1500])
@in_loop
async def test_what_ends_too_early_leaves_what_was_there(place: Path, cut: int) -> None:
    (place / "t").write_text("old")
    archive = member(".", content=b"new" * 300)
    async with taken(archive[:cut]) as (_, connect):
        with pytest.raises(LaunchFailed):
            await asyncio.to_thread(get, connect, "/w/t", str(place / "t"))
    assert (place / "t").read_text() == "old"
    assert [path.name for path in place.iterdir()] == ["t"]


@in_loop
async def test_links_that_somebody_puts_into_the_destination_are_not_followed(place: Path) -> None:
    """The sandbox may have been granted the directory that is copied to."""
    (place / "t").mkdir()
    (place / "t/d").symlink_to("../../outside")
    archive = TOP + member("./d", tarfile.DIRTYPE) + member("./d/evil", content=b"x")
    async with taken(archive + END) as (_, connect):
        with pytest.raises(LaunchFailed, match="no directory"):
            await asyncio.to_thread(get, connect, "/w/t", str(place))
    (place / "t/f").symlink_to("../../outside/kept")
    async with taken(TOP + member("./f", content=b"mine") + END) as (_, connect):
        await asyncio.to_thread(get, connect, "/w/t", str(place))
    assert (place / "t/f").read_text() == "mine"
    assert untouched(place)
    (place / "there").symlink_to("../outside")
    async with taken(member(".", content=b"x") + END) as (_, connect):
        with pytest.raises(LaunchFailed, match="symbolic link, which is not followed"):
            await asyncio.to_thread(get, connect, "/w/kept", str(place / "there"))
    assert untouched(place)


@in_loop
async def test_a_tree_that_is_exchanged_while_it_is_made_leads_nowhere(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to the destination takes a directory of the half-made tree away for a link."""
    real = copy_target._Receiving._add_file  # pyright: ignore[reportPrivateUsage]

    def exchanging(self: object, folder: int, *rest: object) -> None:
        half = next(path for path in place.iterdir() if path.name.startswith(copy_target.PREFIX))
        if not (half / "away").exists():
            (half / "d").rename(half / "away")
            (half / "d").symlink_to(place.parent / "outside")
        real(self, folder, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(copy_target._Receiving, "_add_file", exchanging)  # pyright: ignore[reportPrivateUsage]
    archive = TOP + member("./d", tarfile.DIRTYPE) + member("./f", content=b"x")
    async with taken(archive + member("./d/evil", content=b"x") + END) as (_, connect):
        with pytest.raises(LaunchFailed, match="d/evil' cannot be copied"):
            await asyncio.to_thread(get, connect, "/w/t", str(place))
    assert untouched(place)
    assert list(place.iterdir()) == []


@in_loop
async def test_a_device_is_not_replaced(place: Path) -> None:
    os.mkfifo(place / "pipe")
    async with taken(member(".", content=b"x") + END) as (_, connect):
        with pytest.raises(LaunchFailed, match="and no file"):
            await asyncio.to_thread(get, connect, "/w/t", str(place / "pipe"))
    assert (place / "pipe").is_fifo()


# --- put


@in_loop
async def test_links_of_ours_are_put_as_links(place: Path) -> None:
    (place / "src").mkdir()
    (place / "src/link").symlink_to("../../outside/kept")
    (place / "src/folder").symlink_to("../../outside")
    (place / "top").symlink_to("../outside")
    for source, names in (("src", [".", "./folder", "./link"]), ("top", ["."])):
        async with taken() as (guest, connect):
            guest.refusals = {"/w/t": (Step.OPEN, errno.ENOENT, "/w/t"), "/w": (Step.TOO_MUCH, 27, "./x")}
            await asyncio.to_thread(put, connect, str(place / source), "/w/t")
        with tarfile.open(fileobj=io.BytesIO(guest.files["/w/t"])) as archive:
            members = {each.name: each for each in archive.getmembers()}
        assert sorted(members) == names
        assert all(each.issym() for name, each in members.items() if (name, source) != (".", "src"))
        assert b"kept" not in guest.files["/w/t"].replace(b"outside/kept", b"")


@in_loop
async def test_what_cannot_be_put_is_named_and_nothing_is_put(place: Path) -> None:
    (place / "a").write_text("a")
    os.mkfifo(place / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "socket"))
    async with taken() as (guest, connect):
        with pytest.raises(LaunchFailed) as caught:
            await asyncio.to_thread(put, connect, str(place), "/w/t")
    assert [problem.path for problem in caught.value.problems] == ["SRC", "SRC"]
    told = " ".join(problem.message for problem in caught.value.problems)
    assert "/in/pipe' is neither a file" in told
    assert "/in/socket' is neither a file" in told
    assert guest.files == {}


@in_loop
async def test_more_than_allowed_is_not_put(place: Path) -> None:
    with (place / "big").open("wb") as file:
        file.truncate((1 << 20) + 1)
    async with taken() as (guest, connect):
        with pytest.raises(PolicyRefused, match="--max"):
            await asyncio.to_thread(put, connect, str(place), "/w/t", 1)
    assert guest.files == {}


@pytest.mark.parametrize("lie", [b"\0" * 200_000, b"\xa5" * 600, member("./x", content=b"") + END, b""])
@in_loop
async def test_a_lie_about_the_destination_is_no_more_than_an_error(place: Path, lie: bytes) -> None:
    (place / "a").write_text("a")
    async with taken(lie) as (guest, connect):
        with pytest.raises(MxcError, match="/w/t"):
            await asyncio.to_thread(put, connect, str(place / "a"), "/w/t")
    assert guest.files == {}


@pytest.mark.parametrize("path", ["relative", "", "/w/../etc", "/w/\0"])
def test_a_path_inside_is_absolute_and_plain(path: str) -> None:
    def connect() -> socket.socket:
        raise AssertionError("it is not even asked")

    for work in (lambda: get(connect, path, "/tmp"), lambda: put(connect, "/tmp", path)):
        with pytest.raises(MxcError, match="no path inside a sandbox"):
            work()
