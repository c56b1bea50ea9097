"""The note of a copying back: never mistaken for a dead process's, never in the way of later runs."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

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
