"""Parked clones: ready, stopped, nobody's until they are taken, and never taken twice."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from backends.agent.identity import new_identity
from backends.errors import BackendUnavailable
from backends.qemu import admission
from backends.qemu import pool as pool_module
from backends.qemu.clone import Clone
from backends.qemu.pool import WORKERS, ClonePool
from backends.qemu.pools import close_pools, keep_parked, take_clone
from backends.qemu.timings import Timings
from tests.vm_engine import Engine, code_of, drive, is_gone, kill, opened_engine, qemu_of, said

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with opened_engine(tmp_path_factory.getbasetemp() / "templates") as made:
        yield made


@asynccontextmanager
async def filled(engine: Engine, size: int) -> AsyncGenerator[ClonePool]:
    pool = ClonePool(engine.plan, engine.confinement, size, engine.store)
    try:
        await pool.fill()
        yield pool
    finally:
        await pool.close()


def parked(pool: ClonePool) -> list[Clone]:
    """Nobody else can see them, and that is what is to be shown."""
    return list(pool._parked)  # pyright: ignore[reportPrivateUsage]


async def status(clone: Clone) -> str:
    return (await clone.guest.machine.execute("query-status"))["status"]


async def filled_up(pool: ClonePool) -> None:
    while pool.parked < pool.size:
        await asyncio.sleep(0.02)


def test_parked_clones_are_stopped_and_run_once_they_are_taken(engine: Engine) -> None:
    async def main() -> None:
        async with filled(engine, 2) as pool:
            assert pool.parked == 2
            assert [await status(clone) for clone in parked(pool)] == ["paused", "paused"]
            timings = Timings()
            clone = await pool.acquire(timings)
            try:
                assert [name for name, _ in timings.as_pairs()] == ["acquired"], "nothing was restored for it"
                assert await status(clone) == "running"
                await clone.guest.ask(clone.guest.agent.identify(new_identity("tenant")))
                assert await said(clone, "uname -n") == "tenant\n"
            finally:
                await clone.end()

    drive(main())


def test_each_clone_is_taken_once_and_never_comes_back(engine: Engine) -> None:
    async def main() -> None:
        async with filled(engine, 2) as pool:
            seen: list[int] = []
            for _ in range(5):
                clone = await pool.acquire(Timings())
                seen.append(qemu_of(clone))
                assert clone not in parked(pool)
                await clone.end()
                assert clone not in parked(pool), "it goes with its tenant"
            assert len(set(seen)) == len(seen)
            assert all(is_gone(pid) for pid in seen)

    drive(main())


def test_tenants_who_come_at_once_get_a_clone_each(engine: Engine) -> None:
    """More of them than are parked: the rest is restored."""

    async def main() -> None:
        async with filled(engine, 2) as pool:
            clones = await asyncio.gather(*(pool.acquire(Timings()) for _ in range(4)))
            try:
                assert len({qemu_of(clone) for clone in clones}) == 4
                texts = await asyncio.gather(*(said(clone, f"echo {n}") for n, clone in enumerate(clones)))
                assert texts == [f"{number}\n" for number in range(4)]
            finally:
                for clone in clones:
                    await clone.end()

    drive(main())


def test_a_pool_is_refilled_by_few_workers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are missing, in however many pools: more at once are no faster, and starve everybody."""
    at_once: list[int] = [0]
    most: list[int] = [0]
    restore = pool_module.restore

    async def counted(*args: Any) -> Clone:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        try:
            return await restore(*args)
        finally:
            at_once[0] -= 1

    async def main() -> None:
        await engine.template()
        async with filled(engine, 4) as one, filled(engine, 2):
            for _ in range(2):
                await (await one.acquire(Timings())).end()
            await filled_up(one)

    monkeypatch.setattr(pool_module, "restore", counted)
    drive(main())
    assert most[0] == WORKERS == 2


def test_a_clone_that_died_while_it_was_parked_is_passed_over(engine: Engine) -> None:
    async def main() -> None:
        async with filled(engine, 2) as pool:
            dead, alive = parked(pool)
            victim = qemu_of(dead)
            kill(victim, signal.SIGKILL)
            clone = await pool.acquire(Timings())
            try:
                assert clone is alive
                assert await said(clone, "echo fine") == "fine\n"
            finally:
                await clone.end()
            await filled_up(pool)
            assert is_gone(victim)

    drive(main())


def test_a_tenant_who_gives_up_while_its_clone_is_woken_leaves_no_machine(engine: Engine) -> None:
    async def main() -> None:
        async with filled(engine, 1) as pool:
            (clone,) = parked(pool)
            victim = qemu_of(clone)
            taking = asyncio.ensure_future(pool.acquire(Timings()))
            await asyncio.sleep(0)  # it is taken, and QEMU has not answered
            taking.cancel()
            await asyncio.wait([taking])
            assert taking.cancelled()
            assert is_gone(victim)

    drive(main())


def test_a_parked_clone_that_cannot_be_given_its_disk_is_ended(engine: Engine, tmp_path: Path) -> None:
    async def main() -> None:
        pool = await keep_parked(engine.plan, engine.confinement, 1)
        try:
            (clone,) = parked(pool)
            victim = qemu_of(clone)
            unreadable = os.open(tmp_path / "disk", os.O_WRONLY | os.O_CREAT)
            os.write(unreadable, b"x")
            try:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    await take_clone(
                        engine.plan,
                        engine.confinement,
                        Timings(),
                        disks={"grants": unreadable},
                        used_bytes=1,
                    )
            finally:
                os.close(unreadable)
            assert is_gone(victim)
        finally:
            await close_pools()

    drive(main())


def test_closing_ends_what_is_parked_and_what_is_on_its_way(engine: Engine) -> None:
    async def main() -> None:
        before = _descriptors()
        pool = ClonePool(engine.plan, engine.confinement, 3, engine.store)
        filling = asyncio.ensure_future(pool.fill())
        while not pool.parked:
            await asyncio.sleep(0.01)
        pids = [qemu_of(clone) for clone in parked(pool)]
        await pool.close()
        await asyncio.wait([filling])
        assert pool.parked == 0
        assert all(is_gone(pid) for pid in pids)
        gc.collect()  # what was cancelled is in the traceback of its own end
        opened = [name for name in _descriptors() - before if "memfd:template-memory" not in name]
        assert opened == []

    drive(main())


def test_a_full_host_is_told_and_not_asked_again_and_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def almost_nothing() -> int:
        asked.append(time.monotonic())
        return 64 << 20

    async def main() -> None:
        await engine.template()
        pool = ClonePool(engine.plan, engine.confinement, 2, engine.store)
        with monkeypatch.context() as patch:
            patch.setattr(admission, "available_bytes", almost_nothing)
            with pytest.raises(BackendUnavailable) as caught:
                await pool.fill()
            assert code_of(caught) == "host_full"
            assert caught.value.retryable
            assert pool.problem is not None, "whoever looks later sees it, too"
            await asyncio.sleep(1)
            assert len(asked) <= 4
            with pytest.raises(BackendUnavailable):
                await pool.acquire(Timings())
        try:
            clone = await pool.acquire(Timings())
            assert await said(clone, "echo room again") == "room again\n"
            await clone.end()
            await filled_up(pool)
            assert pool.problem is None
        finally:
            await pool.close()

    drive(main())


def test_a_closed_pool_does_not_try_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        await engine.template()
        pool = ClonePool(engine.plan, engine.confinement, 1, engine.store)
        with monkeypatch.context() as patch:
            patch.setattr(pool_module, "_RETRY_S", 0.1)
            patch.setattr(admission, "available_bytes", lambda: 0)
            with pytest.raises(BackendUnavailable):
                await pool.fill()
        await pool.close()
        await asyncio.sleep(0.3)
        assert pool.parked == 0
        assert len(asyncio.all_tasks()) == 1, "this test"

    drive(main())


def _descriptors() -> set[str]:
    """What this process has open."""
    found: set[str] = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.add(f"{path.name} → {path.readlink()}")
    return found
