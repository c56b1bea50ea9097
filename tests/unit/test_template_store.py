"""Templates on disk: whole or not there, and never what somebody else put in their place."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.qemu.memory_file import data_ranges, sparse_file
from backends.qemu.opened_ahead import open_ahead, take_opened
from backends.qemu.template_store import StoredTemplate, TemplateCorrupt, TemplateStore, default_store
from tests.conftest import CHECKOUT, User

pytestmark = [pytest.mark.backend("vm"), pytest.mark.backend("microvm")]

KEY = "ab" * 32
PAGE = 4096
PAGES = 600
STATE = bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    folder = tmp_path / "templates"
    folder.mkdir(mode=0o700)
    return TemplateStore(str(folder))


@pytest.fixture
def parts() -> Iterator[tuple[int, int]]:
    """(memory, state) of a template: some pages of data, zeros, a hole."""
    memory, state = sparse_file("memory", PAGES * PAGE), sparse_file("state", 0)
    for number in range(0, 300, 3):
        os.pwrite(memory, f"page {number}".encode(), number * PAGE)
    os.pwrite(memory, bytes(PAGE), 400 * PAGE)
    os.pwrite(state, STATE, 0)
    yield memory, state
    os.close(memory)
    os.close(state)


@pytest.fixture
def published(store: TemplateStore, parts: tuple[int, int]) -> Path:
    store.publish(KEY, *parts)
    return Path(store.folder, KEY)


def opened(store: TemplateStore) -> StoredTemplate:
    found = store.open(KEY)
    assert found is not None
    return found


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def names(store: TemplateStore) -> list[str]:
    return sorted(path.name for path in Path(store.folder).iterdir())


def test_what_was_published_is_opened_sealed(store: TemplateStore, parts: tuple[int, int]) -> None:
    assert store.open(KEY) is None
    store.publish(KEY, *parts)
    found = opened(store)
    assert found.state == STATE
    assert os.pread(found.memory, PAGES * PAGE, 0) == os.pread(parts[0], PAGES * PAGE, 0)
    assert [(start, end) for start, end in data_ranges(found.memory) if end > 300 * PAGE] == []
    assert fcntl.fcntl(found.memory, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    memory = found.memory
    found.close()
    found.close()
    with pytest.raises(OSError):
        os.fstat(memory)


def test_a_template_takes_no_more_of_the_disk_than_it_has_content(published: Path) -> None:
    assert (published / "memory").stat().st_size == PAGES * PAGE
    assert (published / "memory").stat().st_blocks * 512 < 200 * PAGE


def test_only_its_owner_can_look_into_a_template(published: Path) -> None:
    """A guest's memory is in it."""
    for path in (published, *published.iterdir()):
        if path.name != "template.json":
            assert path.stat().st_mode & 0o077 == 0, path


def test_publishing_again_replaces_and_whoever_has_it_open_keeps_it(
    store: TemplateStore, parts: tuple[int, int], published: Path
) -> None:
    old = opened(store)
    os.pwrite(parts[0], b"another", 0)
    store.publish(KEY, *parts)
    new = opened(store)
    assert os.pread(old.memory, 7, 0) == b"page 0\0"
    assert os.pread(new.memory, 7, 0) == b"another"
    assert names(store) == [KEY], "nothing of the old one is left"
    for found in (old, new):
        found.close()


def test_removing_takes_it_away_and_nothing_else(
    store: TemplateStore, parts: tuple[int, int], published: Path
) -> None:
    store.publish("cd" * 32, *parts)
    store.remove(KEY)
    store.remove(KEY)
    assert names(store) == ["cd" * 32]


def truncate_memory(folder: Path) -> None:
    os.truncate(folder / "memory", PAGES * PAGE // 2)


def cut_state(folder: Path) -> None:
    os.truncate(folder / "state", 100)


def flip_a_byte_of_memory(folder: Path) -> None:
    with (folder / "memory").open("r+b") as file:
        file.write(b"P")


def flip_a_byte_of_state(folder: Path) -> None:
    with (folder / "state").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff")


def fill_a_hole(folder: Path) -> None:
    with (folder / "memory").open("r+b") as file:
        file.seek(500 * PAGE)
        file.write(b"x")


def grow_memory(folder: Path) -> None:
    os.truncate(folder / "memory", (PAGES + 1) * PAGE)


def exchange_memory(folder: Path) -> None:
    (folder / "memory").rename(folder / "old")
    (folder / "memory").write_bytes(b"page 0".ljust(PAGES * PAGE, b"\0"))


def break_record(folder: Path) -> None:
    (folder / "template.json").write_text('{"key": "')


def empty_record(folder: Path) -> None:
    (folder / "template.json").write_text("{}")


def record_of_another_shape(folder: Path) -> None:
    (folder / "template.json").write_text("[1]")


def link_memory(folder: Path) -> None:
    (folder / "memory").rename(folder / "old")
    (folder / "memory").symlink_to("old")


def let_a_group_write(folder: Path) -> None:
    folder.chmod(0o770)


def let_a_group_write_to_the_store(folder: Path) -> None:
    folder.parent.chmod(0o770)


SPOILS = [
    *(truncate_memory, cut_state, flip_a_byte_of_memory, flip_a_byte_of_state, fill_a_hole, grow_memory),
    *(exchange_memory, break_record, empty_record, record_of_another_shape, link_memory),
    *(let_a_group_write, let_a_group_write_to_the_store),
]


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_spoilt_template_is_never_used(
    store: TemplateStore, published: Path, spoil: Callable[[Path], None]
) -> None:
    before = open_descriptors()
    spoil(published)
    with pytest.raises(TemplateCorrupt, match=str(published.parent)):
        store.open(KEY)
    assert open_descriptors() == before


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_spoilt_template_gives_way_to_a_new_one(
    store: TemplateStore, parts: tuple[int, int], published: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(published)
    Path(store.folder).chmod(0o700)
    store.publish(KEY, *parts)
    opened(store).close()
    assert names(store) == [KEY]


@pytest.mark.parametrize("part", ["memory", "state", "template.json"])
def test_a_template_without_a_part_is_none(store: TemplateStore, published: Path, part: str) -> None:
    before = open_descriptors()
    (published / part).unlink()
    assert store.open(KEY) is None
    assert open_descriptors() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
@pytest.mark.parametrize("place", [".", "..", "memory", "state", "template.json"])
def test_what_belongs_to_somebody_else_is_not_trusted(
    store: TemplateStore, published: Path, place: str
) -> None:
    """He could change the memory of every later run, after it was checked."""
    os.chown(published / place, 12345, 12345)
    with pytest.raises(TemplateCorrupt):
        store.open(KEY)


def test_a_file_that_was_touched_and_not_changed_is_looked_through_once(
    store: TemplateStore, published: Path
) -> None:
    recorded = (published / "template.json").read_text()
    os.utime(published / "memory")
    opened(store).close()
    again = (published / "template.json").read_text()
    assert again != recorded, "it is known as it is now"
    opened(store).close()
    assert (published / "template.json").read_text() == again
    assert names(store) == [KEY]
    assert sorted(path.name for path in published.iterdir()) == ["memory", "state", "template.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting read-only takes root")
def test_what_cannot_be_noted_is_looked_at_again(store: TemplateStore, published: Path) -> None:
    """The record cannot be renewed, and that is no reason not to run."""
    os.utime(published / "state")
    source = f"""
import sys
sys.path.insert(0, {str(CHECKOUT)!r})
from backends.qemu.template_store import TemplateStore
print(len(TemplateStore({store.folder!r}).open({KEY!r}).state))
"""
    mounted = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", mounted, store.folder, sys.executable, "-c", source]
    told = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert told.stdout == f"{len(STATE)}\n", told.stderr


def test_a_change_that_hides_behind_old_times_is_seen(store: TemplateStore, published: Path) -> None:
    status = (published / "memory").stat()
    flip_a_byte_of_memory(published)
    os.utime(published / "memory", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(TemplateCorrupt):
        store.open(KEY)


def test_a_copied_store_is_as_good_as_the_first(store: TemplateStore, published: Path) -> None:
    copy = Path(f"{store.folder}-copy")
    subprocess.run(["cp", "-a", "--sparse=always", store.folder, copy], check=True)
    opened(TemplateStore(str(copy))).close()


FULL_DISK = f"""
import errno, os, subprocess, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from backends.qemu.memory_file import sparse_file
from backends.qemu.opened_ahead import open_ahead, take_opened
from backends.qemu.template_store import TemplateStore
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", folder], check=True)
memory, state = sparse_file("memory", 4 << 20), sparse_file("state", 0)
os.pwrite(state, b"state", 0)
store = TemplateStore(folder)
store.publish("old", state, state)
for size in (4 << 20, 700 << 10):
    os.pwrite(memory, b"x" * size, 0)
    os.pwrite(state, b"x" * (800 << 10), 0)
    try:
        store.publish("new", memory, state)
    except OSError as error:
        print(errno.errorcode[error.errno], sorted(os.listdir(folder)))
    os.ftruncate(memory, 0)
store.publish("new", memory, memory)
print(sorted(os.listdir(folder)))
"""


def test_a_full_disk_leaves_nothing_behind_and_what_was_there(tmp_path: Path) -> None:
    argv = ["unshare", "--mount", "--user", "--map-root-user", sys.executable, "-c", FULL_DISK, tmp_path]
    told = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert told.stdout.splitlines() == ["ENOSPC ['old']", "ENOSPC ['old']", "['new', 'old']"], told.stderr


def test_a_store_that_cannot_be_written_to_is_an_error_of_the_system(
    tmp_path: Path, parts: tuple[int, int]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        TemplateStore(str(tmp_path / "file")).publish(KEY, *parts)
    assert caught.value.errno == errno.ENOTDIR


def test_each_user_has_a_store_of_his_own(as_user: User) -> None:
    source = "from backends.qemu.template_store import default_store; print(default_store())"
    assert as_user(source).stdout == f"{as_user.home}/.cache/mxc-ops/templates\n"
    assert as_user(source, env={"XDG_CACHE_HOME": "/c"}).stdout == "/c/mxc-ops/templates\n"
    assert as_user(source, env={"XDG_CACHE_HOME": "c"}).stdout != "c/mxc-ops/templates\n"
    if os.geteuid() == 0:
        assert default_store() == "/var/lib/mxc-ops/templates"


def test_the_record_says_what_is_stored(published: Path) -> None:
    record = json.loads((published / "template.json").read_text())
    assert record["key"] == KEY
    assert set(record) == {"key", "memory", "state"}


def test_a_template_that_was_opened_ahead_is_handed_out_once(published: Path, store: TemplateStore) -> None:
    open_ahead(store, KEY)
    assert take_opened(store, "cd" * 32) is None, "not another one's"
    found = take_opened(store, KEY)
    assert found is not None
    assert found.state == STATE
    assert fcntl.fcntl(found.memory, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    assert take_opened(store, KEY) is None


def test_what_cannot_be_opened_ahead_is_left_to_whoever_needs_it(
    published: Path, store: TemplateStore
) -> None:
    (published / "state").write_bytes(b"something else")
    open_ahead(store, KEY)
    assert take_opened(store, KEY) is None
    with pytest.raises(TemplateCorrupt):
        store.open(KEY)


def test_what_nobody_has_opened_for_long_goes_when_another_is_made(
    store: TemplateStore, parts: tuple[int, int]
) -> None:
    used, unused = "aa" * 32, "bb" * 32
    for key in (used, unused):
        store.publish(key, *parts)
        os.utime(Path(store.folder, key), (0, 0))
    opened_again = store.open(used)
    assert opened_again is not None

    async def build() -> None:
        async with store.building():
            store.publish(KEY, *parts)

    asyncio.run(build())
    assert [name for name in names(store) if not name.startswith(".")] == [used, KEY]
