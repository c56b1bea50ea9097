"""Taking back what was done of a journal's tasks, last first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from backends.guest_files.apply import OLD, is_directory, look, pour
from backends.guest_files.beneath import Below, exchange, rename_new
from backends.guest_files.journal import Journal, Task
from backends.guest_files.merge import Does
from backends.guest_files.staging import Staging

__all__ = ["undo"]

_OPEN_TO_OWNER = 0o300


def undo(journal: Journal, below: Below, staging: Staging, kept: Mapping[int, str]) -> list[str]:
    """Put everything back, except where the host has something else by now.

    Parameters
    ----------
    kept: versions of the guest that were put somewhere, by number; they are taken away again.

    Returns the paths that could not be put back; with none, nothing is left to do.
    """
    failed: list[str] = []
    remade: list[Task] = []
    for index, task in reversed(list(enumerate(journal.tasks or []))):
        try:
            if task.step.does is Does.REMOVE and is_directory(task.step.was):
                _remake(task, below)
                remade.append(task)
            else:
                _undo(index, task, journal, below, staging, kept)
        except OSError:
            failed.append(task.step.path)
    for task in reversed(remade):  # their entries are back: now they may be closed to writing
        assert task.step.was is not None
        below.set_mode(task.step.path, None, task.step.was.mode)
    return failed


def _undo(
    index: int, task: Task, journal: Journal, below: Below, staging: Staging, kept: Mapping[int, str]
) -> None:
    step = task.step
    if task.number in kept:
        directory, name = below.parent(kept[task.number])
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
    elif step.does is Does.CREATE:
        _take_away(task, below, staging)
    elif step.does is Does.REPLACE:
        if index in journal.writing:
            _write_back(task, below, staging)
        else:
            _change_back(task, below, staging)
    elif step.does is Does.REMOVE:
        _restore(task, below, staging)
    elif step.does is Does.MAKE_DIRECTORY:
        with suppress(OSError):  # not there, or with something in it that is not ours
            directory, name = below.parent(step.path)
            os.rmdir(name, dir_fd=directory)
        below.close()
    elif step.was is not None:
        below.set_mode(step.path, None, step.was.mode)
    else:
        with suppress(FileNotFoundError):
            below.set_mode(step.path, None, step.mode | _OPEN_TO_OWNER)


def _take_away(task: Task, below: Below, staging: Staging) -> None:
    now = below.state(task.step.path)
    if (
        now is not None
        and now.inode == task.inode
        and look(staging.area(task.area), str(task.number)) is None
    ):
        directory, name = below.parent(task.step.path)
        rename_new(directory, name, staging.area(task.area), str(task.number))


def _change_back(task: Task, below: Below, staging: Staging) -> None:
    now = below.state(task.step.path)
    waiting = look(staging.area(task.area), str(task.number))
    if now is not None and waiting is not None and now.inode == task.inode != waiting.inode:
        directory, name = below.parent(task.step.path)
        exchange(staging.area(task.area), str(task.number), directory, name)


def _write_back(task: Task, below: Below, staging: Staging) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    saved = os.open(f"{OLD}{task.number}", flags, dir_fd=staging.area(task.area))
    try:
        assert task.step.was is not None
        pour(below, saved, task.step.path, task.step.was.mode)
    finally:
        os.close(saved)


def _remake(task: Task, below: Below) -> None:
    if below.state(task.step.path) is None:
        directory, name = below.parent(task.step.path)
        os.mkdir(name, 0o700, dir_fd=directory)
        below.close()


def _restore(task: Task, below: Below, staging: Staging) -> None:
    if look(staging.area(task.area), str(task.number)) is not None:
        directory, name = below.parent(task.step.path)
        with suppress(FileExistsError):  # made by the host meanwhile
            rename_new(staging.area(task.area), str(task.number), directory, name)
