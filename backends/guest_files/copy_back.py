"""A read-write grant's results, from a guest that is not trusted, onto the host.

Only what the guest changed is applied. A file that the host changed meanwhile is a conflict: it stays, and
the guest's version is kept beside it. Everything that is done is noted before, so that after a crash, or when
the disk is full, each file is either the old or the new one (see `recover`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from backends.base import Handles, ObjectKind
from backends.ended import Conflict
from backends.errors import CopyBackFailed, Problem
from backends.frozen import frozen
from backends.guest_files.apply import Applying, prepare
from backends.guest_files.beneath import Below
from backends.guest_files.journal import Journal, Noted
from backends.guest_files.merge import Clash, interesting, merge
from backends.guest_files.plan import ShippedGrant
from backends.guest_files.receive import receive
from backends.guest_files.rights import as_owner
from backends.guest_files.sizes import human
from backends.guest_files.snapshot import Snapshot
from backends.guest_files.staging import Staging, open_target
from backends.guest_files.tar_reader import ArchiveRefused, StreamLimits
from backends.guest_files.undo import undo
from backends.inside.agent_protocol import GuestFiles

__all__ = [
    "GROWTH_BYTES",
    "CopyBack",
    "copy_back",
    "finish_applying",
    "get_request",
    "limits_for",
    "undo_all",
]

GROWTH_BYTES = 1 << 30
"""How much more than it was given a guest may send back, by default."""

_MORE_ENTRIES = 100_000
_NAME_BYTES = 64 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@frozen
class CopyBack:
    """`changed`: files, directories and links that are now as the command left them. `conflicts`: what the
    host had changed too, or did not let go. `warnings` are for the result."""

    changed: int
    conflicts: tuple[Conflict, ...] = ()
    warnings: tuple[str, ...] = ()


def limits_for(
    snapshot: Snapshot, *, growth_bytes: int = GROWTH_BYTES, file_bytes: int | None = None
) -> StreamLimits:
    """What a guest may send back for a grant; its GET request is to say the same.

    Parameters
    ----------
    growth_bytes: more than it was given.
    file_bytes: the most for one file (``fileSizeMib``); files that were larger already may stay so.
    """
    content = snapshot.content_bytes + growth_bytes
    names = sum(len(path) * 4 for path in snapshot.shipped) + _NAME_BYTES
    largest = max(file_bytes, snapshot.largest_bytes) if file_bytes is not None else content
    return StreamLimits(content, largest, len(snapshot.shipped) + _MORE_ENTRIES, names)


def get_request(grant: ShippedGrant, limits: StreamLimits) -> GuestFiles:
    """What to GET from the agent: the copy itself, not what is mounted at the grant's path."""
    return GuestFiles(grant.place, at_most_bytes=limits.content_bytes, at_most_entries=limits.entries)


def copy_back(
    grant: ShippedGrant,
    snapshot: Snapshot,
    handles: Handles,
    chunks: Iterator[bytes],
    *,
    journals: str,
    limits: StreamLimits | None = None,
) -> CopyBack:
    """Apply what the guest changed of one read-write grant.

    Parameters
    ----------
    snapshot: what `archive` noted when the grant was handed over.
    chunks: the archive that the guest sends, iterated on another thread when we are root.
    journals: directory of ours (made when missing), closed to others, for the note of what is under way.
    limits: what is taken at most; `limits_for` the snapshot by default.

    Raises `CopyBackFailed`: what the guest sent is refused, there is no room, or the host failed; the host's
    files are then as they were, unless the error says that `recover` has to bring that about.
    """
    status = os.fstat(handles.fileno(grant.slot))
    if (status.st_dev, status.st_ino) != grant.object:
        raise _failed(grant, "object_changed", "is not the object that was checked")
    identifier = os.urandom(8).hex()
    noted = Noted(
        *(identifier, grant.path, grant.pointer, grant.object, grant.writes_as),
        grant.kind is ObjectKind.DIRECTORY,
    )
    try:
        journal, spare = _begin(journals, noted)
    except OSError as error:
        raise _failed(grant, "no_journal", f"cannot be copied back without a journal: {error}") from error
    try:
        bounds = limits or limits_for(snapshot)
        work = _Work(grant, snapshot, handles.fileno(grant.slot), chunks, bounds, journal, spare)
        try:
            return as_owner(grant.writes_as, work.run)
        finally:
            os.close(spare)
            if journal.done or journal.tasks is None:
                journal.remove()
    finally:
        journal.close()


def _begin(journals: str, noted: Noted) -> tuple[Journal, int]:
    journal = Journal.begin(journals, noted)
    try:
        return journal, journal.open_spare()
    except BaseException:
        journal.remove()
        journal.close()
        raise


class _Work:
    """Everything that is done with the rights of the grant's owner."""

    def __init__(
        self,
        grant: ShippedGrant,
        snapshot: Snapshot,
        handle: int,
        chunks: Iterator[bytes],
        limits: StreamLimits,
        journal: Journal,
        spare: int,
    ) -> None:
        self._grant = grant
        self._snapshot = snapshot
        self._handle = handle
        self._chunks = chunks
        self._limits = limits
        self._journal = journal
        self._spare = spare

    def run(self) -> CopyBack:
        with open_target(self._journal.noted, self._handle) as (below, beside):
            staging = Staging(self._journal, below, beside, self._spare)
            try:
                return self._apply(below, staging)
            except ArchiveRefused as error:
                raise self._refused(error) from error
            except OSError as error:
                raise self._host_failed(error) from error
            finally:
                if self._journal.done or self._journal.tasks is None:
                    staging.remove()
                staging.close()

    def _apply(self, below: Below, staging: Staging) -> CopyBack:
        warnings: list[str] = []
        grant, shipped = self._grant, self._snapshot.shipped
        guest = receive(grant, self._snapshot, self._chunks, self._limits, staging, warnings)
        host = {path: below.state(path) for path in interesting(shipped, guest)}
        suffix = f".mxc-guest-{self._journal.noted.identifier}"
        merged = merge(shipped, guest, host, grant.left_out, suffix, below.single)
        if not merged.steps:
            return CopyBack(0, conflicts(grant, merged.clashes), tuple(warnings))
        tasks = prepare(merged.steps, below, staging)
        staging.seal()
        self._journal.add_tasks(tasks, merged.clashes)
        applying = finish_applying(self._journal, below, staging)
        found = (*merged.clashes, *applying.clashes)
        told = tuple(f"{grant.pointer}: {warning}" for warning in applying.warnings)
        return CopyBack(applying.changed, conflicts(grant, found), (*warnings, *told))

    def _refused(self, error: ArchiveRefused) -> CopyBackFailed:
        most = human(self._limits.content_bytes)
        return _failed(
            self._grant,
            "guest_archive_refused",
            f"was not copied back: {error} (a virtual machine may send back {most} for it)",
            fix="let the command leave less, or choose containment bubblewrap, which copies nothing",
        )

    def _host_failed(self, error: OSError) -> CopyBackFailed:
        begun = self._journal.tasks is not None and not self._journal.done
        state = (
            "it is completed, or undone, by the next run" if begun else "its files are as they were before"
        )
        code, fix = ("no_space_for_results", "make room on its file system, and run it again")
        if error.errno not in _FULL:
            code, fix = "copy_back_failed", ""
        what = (
            f"was not copied back: {os.strerror(error.errno or 0)} ({error.filename or 'writing'}); {state}"
        )
        return _failed(self._grant, code, what, fix=fix, retryable=bool(fix))


def finish_applying(journal: Journal, below: Below, staging: Staging) -> Applying:
    """Do what is noted. Raises `OSError` after everything was undone, or has yet to be (`journal.done`)."""
    applying = Applying(journal, below, staging)
    try:
        applying.run()
    except OSError:
        journal.note_undoing()
        undo_all(journal, below, staging, applying.kept)
        raise
    journal.note_done()
    return applying


def undo_all(journal: Journal, below: Below, staging: Staging, kept: dict[int, str]) -> list[str]:
    """Undo what is noted; what could not be put back is returned, and tried again by the next `recover`."""
    failed = undo(journal, below, staging, kept)
    if not failed:
        journal.note_done()
    return failed


def conflicts(grant: ShippedGrant | Noted, clashes: tuple[Clash, ...]) -> tuple[Conflict, ...]:
    """With the host's paths, each path once."""
    by_path: dict[str, Conflict] = {}
    for clash in clashes:
        path = f"{grant.path}/{clash.path}" if clash.path else grant.path
        top = grant.path if clash.path else grant.path.rpartition("/")[0]
        kept = f"{top}/{clash.kept_as}" if clash.kept_as else ""
        by_path[path] = Conflict(path, kept, grant.pointer)
    return tuple(by_path.values())


def _failed(
    grant: ShippedGrant, code: str, what: str, *, fix: str = "", retryable: bool = False
) -> CopyBackFailed:
    return CopyBackFailed(
        Problem(code, grant.pointer, f"{grant.path!r} {what}", fix=fix), retryable=retryable
    )
