"""Several builders in one store of templates: one after another, or at least never mixed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends.qemu.template_store import TemplateStore
from tests.conftest import CHECKOUT

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    folder = tmp_path / "templates"
    folder.mkdir(mode=0o700)
    return TemplateStore(str(folder))


def names(store: TemplateStore) -> list[str]:
    return sorted(path.name for path in Path(store.folder).iterdir())


def test_builders_wait_for_each_other(store: TemplateStore) -> None:
    held: list[str] = []

    async def build(name: str) -> None:
        async with store.building():
            held.append(name)
            await asyncio.sleep(0.05)
            held.append(name)

    async def all_of_them() -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*(build(name) for name in "abc"))

    asyncio.run(all_of_them())
    assert held[0::2] == held[1::2]
    assert sorted(held) == list("aabbcc")


def test_a_builder_who_gives_up_waiting_holds_nothing(store: TemplateStore) -> None:
    async def give_up() -> None:
        async with store.building():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), store.building():
                    pytest.fail("two builders at once")
        async with asyncio.timeout(20), store.building():
            pass

    asyncio.run(give_up())


def test_what_dead_builders_left_is_removed_and_nothing_else(store: TemplateStore) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f".building-{dead.pid}-{KEY[:16]}", f".building-{dead.pid}-removed"):
        Path(store.folder, name).mkdir()
        Path(store.folder, name, "memory").write_bytes(b"half of it")
    alive = Path(store.folder, f".building-{os.getpid()}-{KEY[:16]}")
    alive.mkdir()
    Path(store.folder, KEY).mkdir()

    async def build() -> None:
        async with store.building():
            assert names(store) == sorted([".lock", alive.name, KEY])

    asyncio.run(build())


PUBLISHER = f"""
import os, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from backends.qemu.memory_file import sparse_file
from backends.qemu.template_store import TemplateStore
folder, key, own = sys.argv[1:]
memory, state = sparse_file("memory", 64 * 4096), sparse_file("state", 0)
os.pwrite(memory, own.encode() * 4096, 4096)
os.pwrite(state, own.encode() * 100, 0)
store = TemplateStore(folder)
sys.stdin.read()
for _ in range(20):
    store.publish(key, memory, state)
"""


def test_publishers_who_do_not_wait_never_mix(store: TemplateStore) -> None:
    argv = [sys.executable, "-c", PUBLISHER, store.folder, KEY]
    children = [
        subprocess.Popen([*argv, str(number)], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for number in range(2)
    ]
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
        seen: set[bytes] = set()
        while any(child.poll() is None for child in children):
            found = store.open(KEY)
            if found is not None:
                seen.add(found.state[:1])
                assert os.pread(found.memory, 5, 4096) == found.state[:5]
                found.close()
        assert seen
        assert names(store) == [KEY], "nothing of either is left"
    finally:
        for child in children:
            child.kill()
            child.wait()
