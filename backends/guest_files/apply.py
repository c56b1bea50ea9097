"""The steps of a merge, done on the host; each can be done again after a crash, and undone.

A file is replaced by letting it and its successor change their places (`RENAME_EXCHANGE`): the old one can
then be looked at once more, and put back when the host had changed it in the last moment. Where the directory
may not be changed, a file is written in place, from content that is on disk until the end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress

from backends.guest_files.beneath import Below, exchange, rename_new
from backends.guest_files.journal import Journal, Task
from backends.guest_files.merge import Clash, Does, Step, kept_name, same
from backends.guest_files.snapshot import Host, host_state
from backends.guest_files.staging import Staging

__all__ = ["OLD", "Applying", "is_directory", "look", "pour", "prepare"]

_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EBUSY, errno.EROFS, errno.ETXTBSY)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_PLACES_TRIED = 100
OLD = "old-"
"""Before a number: what a file had before it was written in place."""


def prepare(steps: Sequence[Step], below: Below, staging: Staging) -> list[Task]:
    """Give each step its area and number, and have new content there."""
    tasks: list[Task] = []
    for step in steps:
        if step.does in (Does.MODE, Does.MAKE_DIRECTORY) or is_directory(step.was):
            tasks.append(Task(step))
            continue
        area = 0
        with suppress(PermissionError):  # of a single file: there is only one area
            nearest = _nearest(step.path, below)
            area = staging.area_for(below.parent(nearest)[0], nearest.rpartition("/")[0])
        if step.staged is None:
            tasks.append(Task(step, area, staging.number()))
            continue
        staging.move(step.staged, area)
        status = os.stat(str(step.staged), dir_fd=staging.area(area), follow_symlinks=False)
        _give_group(step, status.st_gid, below, staging.area(area))
        tasks.append(Task(step, area, step.staged, status.st_ino))
    return tasks


def _give_group(step: Step, has: int, below: Below, area: int) -> None:
    """The group that it would have, had it been written, or made, at its place; where we may give it."""
    with suppress(OSError):
        directory, name = below.parent(_nearest(step.path, below))
        if step.does is Does.REPLACE:
            wanted = os.stat(name, dir_fd=directory, follow_symlinks=False).st_gid
        else:
            there = os.fstat(directory)
            wanted = there.st_gid if there.st_mode & stat.S_ISGID else has
        if wanted != has:
            os.chown(str(step.staged), -1, wanted, dir_fd=area, follow_symlinks=False)


def _nearest(path: str, below: Below) -> str:
    """`path`, or the first of the directories to be made on the way to it."""
    while path and not is_directory(below.state(path.rpartition("/")[0])):
        path = path.rpartition("/")[0]
    return path


def is_directory(host: Host | None) -> bool:
    return host is not None and host.kind == stat.S_IFDIR


class Applying:
    """Does the tasks of a journal in order. `changed` counts what was changed as the guest wanted it."""

    def __init__(self, journal: Journal, below: Below, staging: Staging) -> None:
        self._journal = journal
        self._below = below
        self._staging = staging
        self._suffix = f".mxc-guest-{journal.noted.identifier}"
        self.changed = 0
        self.clashes: list[Clash] = []
        self.kept: dict[int, str] = {}
        self.warnings: list[str] = []
        self._tasks = journal.tasks or []

    def run(self) -> None:
        """Raises `OSError` when something that is no conflict cannot be done: then `undo` is called for."""
        for index, task in enumerate(self._tasks):
            does = task.step.does
            if does is Does.CREATE:
                self._create(task)
            elif does is Does.REPLACE:
                self._replace(index, task)
            elif does is Does.REMOVE:
                self._remove(task)
            elif does is Does.MAKE_DIRECTORY:
                self._make_directory(task.step)
            else:
                self._set_mode(task.step)

    def _create(self, task: Task) -> None:
        area, name = self._staging.area(task.area), str(task.number)
        if look(area, name) is None:
            self._count(task)  # done before a crash
            return
        try:
            directory, there = self._below.parent(task.step.path)
            rename_new(area, name, directory, there)
        except OSError as error:
            if error.errno not in (errno.EEXIST, *_GONE, *_NOT_OURS):
                raise
            self._keep(task)
        else:
            self._count(task)

    def _replace(self, index: int, task: Task) -> None:
        area, name, path, was = self._staging.area(task.area), str(task.number), task.step.path, task.step.was
        assert was is not None
        waiting = look(area, name)
        if waiting is None:  # kept aside before a crash
            return
        if index in self._journal.writing:
            self._write(index, task)
            return
        if waiting.inode == task.inode:
            if not same(was, self._below.state(path)):
                self._keep(task)
                return
            if was.uid != waiting.uid and self._may_write(task):  # somebody else's: it stays theirs
                self._write(index, task)
                return
            try:
                directory, there = self._below.parent(path)
                exchange(area, name, directory, there)
            except OSError as error:
                if error.errno in (*_NOT_OURS, errno.EXDEV) and self._may_write(task):
                    self._write(index, task)
                elif error.errno in (*_GONE, *_NOT_OURS, errno.EXDEV):
                    self._keep(task)
                else:
                    raise
                return
            waiting = look(area, name)
        if waiting is not None and _untouched(was, waiting):
            self._count(task)
            return
        directory, there = self._below.parent(path)
        exchange(area, name, directory, there)
        self._keep(task)

    def _may_write(self, task: Task) -> bool:
        was = task.step.was
        if was is None or was.kind != stat.S_IFREG or stat.S_IFMT(task.step.mode) != stat.S_IFREG:
            return False
        try:
            os.close(self._below.open_for_writing(task.step.path))
        except OSError:
            return False
        return True

    def _write(self, index: int, task: Task) -> None:
        """Write in place; from its note in the journal on, it is written whatever happens."""
        area, name = self._staging.area(task.area), str(task.number)
        if index not in self._journal.writing:
            self._save(area, OLD + name, task.step.path)
            self._journal.note_writing(index)
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=area)
        try:
            pour(self._below, source, task.step.path, task.step.mode)
        finally:
            os.close(source)
        self._count(task)

    def _save(self, area: int, name: str, path: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=area)
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=area)
        try:
            source = self._below.open_for_reading(path)
            try:
                _copy_all(source, target)
            finally:
                os.close(source)
            os.fdatasync(target)
        finally:
            os.close(target)

    def _remove(self, task: Task) -> None:
        path, was = task.step.path, task.step.was
        assert was is not None
        if was.kind == stat.S_IFDIR:
            self._remove_directory(path)
            return
        area, name = self._staging.area(task.area), str(task.number)
        old = look(area, name)
        try:
            directory, there = self._below.parent(path)
            if old is None:
                now = self._below.state(path)
                if now is None:
                    return
                if not same(was, now):
                    self.clashes.append(Clash(path, ""))
                    return
                rename_new(directory, there, area, name)
                old = look(area, name)
            if old is None or _untouched(was, old):
                self._count(task)
                return
            rename_new(area, name, directory, there)
            self.clashes.append(Clash(path, ""))
        except OSError as error:
            if error.errno not in (errno.EEXIST, *_GONE, *_NOT_OURS):
                raise
            self._not_removed(path, error)

    def _remove_directory(self, path: str) -> None:
        try:
            directory, there = self._below.parent(path)
            os.rmdir(there, dir_fd=directory)
            self._below.close()  # the directory may be an open parent
            self.changed += 1
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                self.clashes.append(Clash(path, ""))  # something that the guest did not have
            elif error.errno in _NOT_OURS:
                self._not_removed(path, error)
            elif error.errno not in _GONE:
                raise

    def _not_removed(self, path: str, error: OSError) -> None:
        self.clashes.append(Clash(path, ""))
        self.warnings.append(f"{path!r} could not be removed: {os.strerror(error.errno or 0)}")

    def _make_directory(self, step: Step) -> None:
        try:
            directory, there = self._below.parent(step.path)
            os.mkdir(there, 0o700, dir_fd=directory)
            self._below.close()
            self.changed += not step.origin
        except OSError as error:
            if error.errno not in (errno.EEXIST, *_GONE, *_NOT_OURS):
                raise  # what should lie in it is kept elsewhere

    def _set_mode(self, step: Step) -> None:
        try:
            done = self._below.set_mode(step.path, step.was, step.mode)
            self.changed += done and step.was is not None
        except OSError as error:
            if error.errno not in (*_GONE, *_NOT_OURS):
                raise

    def _count(self, task: Task) -> None:
        self.changed += not task.step.origin

    def _keep(self, task: Task) -> None:
        """Put the guest's version beside, or in the next directory above that takes it."""
        area, name, path = self._staging.area(task.area), str(task.number), task.step.path
        for attempt in range(_PLACES_TRIED):
            path = path if attempt == 0 else _up(path)
            place = kept_name(path or self._below.single, f"{self._suffix}{f'-{attempt}' if attempt else ''}")
            try:
                directory, there = self._below.parent(place)
                rename_new(area, name, directory, there)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.EXDEV, *_GONE, *_NOT_OURS):
                    raise
                continue
            self.kept[task.number] = place
            self.clashes.append(Clash(task.step.origin or task.step.path, place))
            return
        self.clashes.append(Clash(task.step.origin or task.step.path, ""))
        self.warnings.append(f"{task.step.path!r}: nowhere could the command's version be kept")


def _up(path: str) -> str:
    above, _, name = path.rpartition("/")
    return f"{above.rpartition('/')[0]}/{name}".lstrip("/")


def pour(below: Below, source: int, path: str, mode: int) -> None:
    """Write all of `source` over the file, which keeps its identity, and its mode when it is not ours."""
    target = below.open_for_writing(path)
    try:
        length = _copy_all(source, target)
        os.ftruncate(target, length)
        with suppress(PermissionError):
            os.fchmod(target, stat.S_IMODE(mode))
        os.fsync(target)
    finally:
        os.close(target)


def look(directory: int, name: str) -> Host | None:
    """What lies in a staging directory under a name."""
    try:
        return host_state(os.stat(name, dir_fd=directory, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _untouched(was: Host, now: Host) -> bool:
    """Whether it is what it was, up to its change time, which moving it has changed."""
    return (was.mode, was.inode, was.size, was.mtime_ns) == (now.mode, now.inode, now.size, now.mtime_ns)


def _copy_all(source: int, target: int) -> int:
    offset = 0
    while copied := os.sendfile(target, source, offset, 1 << 30):
        offset += copied
    return offset
