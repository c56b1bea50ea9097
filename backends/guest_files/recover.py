"""Ending what a process that was killed had begun to copy back."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from backends.ended import Conflict
from backends.frozen import frozen, replace
from backends.guest_files.beneath import open_beneath
from backends.guest_files.copy_back import conflicts, finish_applying, undo_all
from backends.guest_files.journal import Journal, Unreadable, open_journals
from backends.guest_files.rights import as_owner
from backends.guest_files.staging import Staging, open_target

__all__ = ["Recovered", "recover"]


@frozen
class Recovered:
    """One grant whose copying back had been interrupted.

    `outcome`: "completed" (its files are as the command left them), "rolled back" (as they were before), or
    "unfinished": then `missing` says which paths are neither for sure, and the journal is kept. One that
    cannot be read stands for its grant itself, once: it is put aside.
    """

    path: str
    outcome: str
    conflicts: tuple[Conflict, ...] = ()
    missing: tuple[str, ...] = ()


def recover(journals: str) -> tuple[Recovered, ...]:
    """Complete each copying back that nobody is at work on, and clean up after it.

    What had not arrived whole is removed, which is all that rolling back takes; the rest is completed, with
    the same care for what the host changed as at first. Meant for every start-up: without journals, it costs
    one look.
    """
    recovered: list[Recovered] = []
    for journal in open_journals(journals):
        if isinstance(journal, Unreadable):
            recovered.append(Recovered(journal.path, "unfinished", missing=("it cannot be read",)))
            continue
        try:
            recovered.append(_recover(journal))
        finally:
            journal.close()
    return tuple(recovered)


def _recover(journal: Journal) -> Recovered:
    noted = journal.noted
    spare = handle = -1
    try:
        spare = journal.open_spare()
        handle = _open_grant(journal)
        answer = as_owner(noted.owner, lambda: _finish(journal, handle, spare))
    except OSError as error:
        return Recovered(noted.path, "unfinished", missing=(*_paths(journal), os.strerror(error.errno or 0)))
    finally:
        for descriptor in (spare, handle):
            if descriptor >= 0:
                os.close(descriptor)
    if answer.outcome != "unfinished":
        journal.remove()
    return answer


def _open_grant(journal: Journal) -> int:
    noted = journal.noted
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        handle = open_beneath(root, noted.path.lstrip("/"), os.O_PATH)
    finally:
        os.close(root)
    status = os.fstat(handle)
    if noted.directory and (status.st_dev, status.st_ino) != noted.object:
        os.close(handle)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    # A file that was replaced just before the crash is another object by now.
    journal.noted = replace(noted, object=(status.st_dev, status.st_ino))
    return handle


def _finish(journal: Journal, handle: int, spare: int) -> Recovered:
    noted = journal.noted
    with open_target(noted, handle) as (below, beside):
        staging = Staging(journal, below, beside, spare)
        try:
            whole = staging.reopen()
            if not whole and journal.tasks is not None and not journal.done:
                # What waits to be put in its place, or was, lies on a file system that is not mounted now.
                return Recovered(noted.path, "unfinished", missing=_paths(journal))
            if journal.tasks is None or journal.done:
                staging.remove()
                begun = journal.tasks is not None and not journal.undoing
                return Recovered(noted.path, "completed" if begun else "rolled back")
            if journal.undoing:
                failed = undo_all(journal, below, staging, {})
                if failed:
                    return Recovered(noted.path, "unfinished", missing=_absolute(journal, failed))
                staging.remove()
                return Recovered(noted.path, "rolled back")
            with suppress(OSError):
                applying = finish_applying(journal, below, staging)
                staging.remove()
                found = (*journal.clashes, *applying.clashes)
                return Recovered(noted.path, "completed", conflicts(noted, found))
            if not journal.done:
                return Recovered(noted.path, "unfinished", missing=_paths(journal))
            staging.remove()
            return Recovered(noted.path, "rolled back")
        finally:
            staging.close()


def _paths(journal: Journal) -> tuple[str, ...]:
    return _absolute(journal, [task.step.path for task in journal.tasks or []])


def _absolute(journal: Journal, paths: list[str]) -> tuple[str, ...]:
    top = journal.noted.path
    return tuple(dict.fromkeys(f"{top}/{path}" if path else top for path in paths))
