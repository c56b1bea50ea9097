"""The note of a copying back: never mistaken for a dead process's, never in the way of later runs."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.errors import CopyBackFailed
from backends.guest_files import journal
from backends.guest_files.recover import recover
from tests.unit.guest_files import RW, File, Run, host_tree


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Run]:
    """A run whose command has changed its one file."""
    top = tmp_path / "grant"
    top.mkdir()
    (top / "kept").write_bytes(b"old")
    run = Run((top, RW), journals=tmp_path / "journals")
    run.guest["kept"] = File(b"new")
    yield run
    run.handles.close()


def test_a_journal_is_not_recovered_while_it_is_made(changed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process starts between the making of the file and its lock."""
    lock = fcntl.flock
    met: list[object] = []

    def locked(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not met:
            met.append(recover(str(changed.journals)))
        lock(descriptor, operation)

    monkeypatch.setattr(journal.fcntl, "flock", locked)
    assert changed.back().changed == 1
    assert met == [()]
    assert list(changed.journals.iterdir()) == []
    assert host_tree(changed.journals.parent / "grant")["kept"] == File(b"new")


@pytest.mark.parametrize(
    "text", [bytes(200) + b"\n", b'{"version": 1}\n', b"[]\n", b'{"version": 1, "object": 3}\n', b"\xff\n"]
)
def test_a_journal_that_cannot_be_read_is_told_once_and_in_nobodys_way(changed: Run, text: bytes) -> None:
    """A power failure leaves zeros where a file was written last."""
    changed.journals.mkdir()
    (changed.journals / "aa.journal").write_bytes(text)
    [found] = recover(str(changed.journals))
    assert (found.outcome, found.path) == ("unfinished", f"{changed.journals}/aa.journal.unreadable")
    assert Path(found.path).read_bytes() == text
    assert recover(str(changed.journals)) == ()
    assert changed.back().changed == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system without room")
@pytest.mark.parametrize("inodes", [1, 2])
def test_without_room_for_a_journal_nothing_is_copied_back_and_nothing_stays(
    changed: Run, inodes: int
) -> None:
    """Not even half a journal, which the next run would tell of."""
    changed.journals.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    place = str(changed.journals).encode()
    assert libc.mount(b"none", place, b"tmpfs", 0, b"nr_inodes=%d" % inodes) == 0
    try:
        with pytest.raises(CopyBackFailed, match="without a journal") as caught:
            changed.back()
        assert caught.value.problems[0].code == "no_journal"
        assert list(changed.journals.iterdir()) == []
    finally:
        libc.umount2(place, 2)
    assert host_tree(changed.journals.parent / "grant")["kept"] == File(b"old")
