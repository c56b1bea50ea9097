"""Copying back while the guest that it comes from ends, or plays for time; a thread of ours is at it then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from pathlib import Path
from typing import Any, cast

import pytest

from backends.agent import from_loop
from backends.agent.errors import GuestLost
from backends.errors import CopyBackFailed
from backends.guest_files.copy_back import CopyBack
from backends.qemu.guest import Guest
from backends.vm import copying_back
from backends.vm.copying_back import bring_back
from tests.unit.guest_files import RW, File, Run, archive_of, host_tree

Sent = AsyncGenerator[bytes]


class StandIn:
    """The side of a guest that copying back sees. `gone`: its QEMU has ended."""

    def __init__(self, sent: Sent) -> None:
        self.gone = asyncio.Event()
        self.agent = self.machine = self
        self._sent = sent

    def signal_everything(self, number: int) -> None: ...

    def get(self, request: object) -> Sent:
        return self._sent

    async def guard(self, work: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self.gone.wait())
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        for each in (task, gone):
            each.cancel()
        return await task


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(copying_back, "journals_folder", lambda: str(tmp_path / "journals"))
    (tmp_path / "grant").mkdir()
    (tmp_path / "grant/kept").write_bytes(b"old")
    made = Run((tmp_path / "grant", RW), journals=tmp_path / "journals")
    made.guest["kept"] = File(b"new" * 1000)
    return made


async def back(run: Run, guest: StandIn) -> list[CopyBack]:
    snapshots = {run.grant.number: run.snapshot}
    copied = bring_back(cast("Guest", guest), run.plan, snapshots, run.handles, None)
    return [one async for one in copied]


@pytest.mark.parametrize("why", ["QEMU has ended", "nobody waits for it"])
def test_nobody_works_with_the_runs_descriptors_once_it_has_ended(why: str, one: Run, tmp_path: Path) -> None:
    """The run closes them next, and their numbers are soon another run's."""

    async def main() -> None:
        sent_some = asyncio.Event()

        async def sent() -> Sent:
            yield archive_of(one.guest)[:2048]
            sent_some.set()
            await asyncio.sleep(0.3)
            raise GuestLost("it hung up")

        guest = StandIn(sent())
        task = asyncio.ensure_future(back(one, guest))
        await sent_some.wait()
        guest.gone.set()
        if why == "nobody waits for it":
            task.cancel()
        with pytest.raises((CopyBackFailed, asyncio.CancelledError)):
            await task
        assert sorted(path.name for path in tmp_path.iterdir()) == ["grant", "journals"], "staging is gone"
        assert list((tmp_path / "journals").iterdir()) == []

    asyncio.run(main())
    assert host_tree(tmp_path / "grant")["kept"] == File(b"old")


def test_a_guest_that_drips_is_given_up(one: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes in time; all of them would take for ever, and the run has no deadline any more."""
    monkeypatch.setattr(from_loop, "PATIENCE_S", 0.1)

    async def drip() -> Sent:
        for byte in archive_of(one.guest)[:100]:
            await asyncio.sleep(0.02)
            yield bytes([byte])

    with pytest.raises(CopyBackFailed, match="did not answer GET with more than") as caught:
        asyncio.run(back(one, StandIn(drip())))
    assert caught.value.path == one.grant.pointer
    assert host_tree(tmp_path / "grant")["kept"] == File(b"old")
