"""The note of one copying back, written before it is done: what was begun can be ended after any crash.

One JSON value a line. A line that was not written whole counts as not written. The file is locked by the
process that works on it, and removed when all is done.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from backends.frozen import field_names, frozen
from backends.guest_files.merge import Clash, Does, Step
from backends.guest_files.snapshot import Host

__all__ = ["Journal", "Noted", "Task", "Unreadable", "open_journals"]

_VERSION = 1
_ENDING = ".journal"
_SPARE = ".content"
_PUT_ASIDE = ".unreadable"


@frozen
class Task:
    """A step with what it needs: the `area` that its new object waits in, and its old one goes to, under
    `number`; `inode` is the new one's."""

    step: Step
    area: int = 0
    number: int = -1
    inode: int = 0


@frozen
class Noted:
    """What is known of the grant: enough to find it again. `directory`: not a single file."""

    identifier: str
    path: str
    pointer: str
    object: tuple[int, int]
    owner: tuple[int, int]
    directory: bool


@frozen
class Unreadable:
    """A journal that says nothing that we understand; `path` is where it was put, out of the way."""

    path: str


class Journal:
    """Made by `begin`, or found by `open_journals`, and locked in either case.

    `areas` are places of staging directories (see `staging`), `tasks` is None until all of them were staged,
    `writing` are the indices of tasks that write in place, `clashes` what was in conflict.
    """

    def __init__(self, directory: int, name: str, descriptor: int, noted: Noted) -> None:
        self._directory = directory
        self._name = name
        self._descriptor = descriptor
        self.noted = noted
        self.areas: list[str] = []
        self.tasks: list[Task] | None = None
        self.clashes: list[Clash] = []
        self.writing: set[int] = set()
        self.undoing = False
        self.done = False

    @classmethod
    def begin(cls, directory: str, noted: Noted) -> Journal:
        """Raises `OSError` when there can be no journal."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            name = noted.identifier + _ENDING
            descriptor = _make(folder, name)
        except BaseException:
            os.close(folder)
            raise
        journal = cls(folder, name, descriptor, noted)
        try:
            journal._append({"version": _VERSION, **{key: getattr(noted, key) for key in field_names(Noted)}})
        except BaseException:
            journal.remove()
            journal.close()
            raise
        return journal

    def open_spare(self) -> int:
        """A directory that only the grant's owner may use, beside the journal."""
        name = self.noted.identifier + _SPARE
        try:
            os.mkdir(name, 0o700, dir_fd=self._directory)
        except FileExistsError:
            pass
        else:
            if os.geteuid() == 0:
                os.chown(name, *self.noted.owner, dir_fd=self._directory, follow_symlinks=False)
        return os.open(
            name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory
        )

    def add_area(self, place: str) -> None:
        self.areas.append(place)
        self._append({"area": place})

    def drop_area(self) -> None:
        """The last one could not be made."""
        self.areas.pop()
        self._append({"dropped": True})

    def add_tasks(self, tasks: Sequence[Task], clashes: Sequence[Clash]) -> None:
        """From here on, what was begun is to be ended."""
        self.tasks = list(tasks)
        self.clashes = list(clashes)
        self._append(
            {"tasks": [_task_as_list(t) for t in tasks], "clashes": [[c.path, c.kept_as] for c in clashes]}
        )
        os.fsync(self._descriptor)

    def note_writing(self, index: int) -> None:
        if index not in self.writing:
            self.writing.add(index)
            self._append({"writing": index})
            os.fsync(self._descriptor)

    def note_undoing(self) -> None:
        self.undoing = True
        self._append({"undo": True})
        os.fsync(self._descriptor)

    def note_done(self) -> None:
        self.done = True
        self._append({"done": True})

    def remove(self) -> None:
        with suppress(FileNotFoundError):
            os.rmdir(self.noted.identifier + _SPARE, dir_fd=self._directory)
        os.unlink(self._name, dir_fd=self._directory)

    def close(self) -> None:
        """Let go of it; what was not removed is found by the next `open_journals`."""
        os.close(self._descriptor)
        os.close(self._directory)

    def _append(self, value: Mapping[str, object]) -> None:
        line = json.dumps(value).encode() + b"\n"
        whole = os.fstat(self._descriptor).st_size
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:
            os.ftruncate(self._descriptor, whole)  # else the next line would be part of half a line
            raise

    def replay(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Take over what the process before noted."""
        for line in lines:
            if "area" in line:
                self.areas.append(line["area"])
            elif "dropped" in line:
                self.areas.pop()
            elif "tasks" in line:
                self.tasks = [_task_from_list(fields) for fields in line["tasks"]]
                self.clashes = [Clash(*fields) for fields in line["clashes"]]
            elif "writing" in line:
                self.writing.add(line["writing"])
            self.undoing = self.undoing or "undo" in line
            self.done = self.done or "done" in line


def _make(folder: int, name: str) -> int:
    """A new journal, locked. Before that, another process may take it for a dead one's, and remove it."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                os.stat(name, dir_fd=folder)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def open_journals(directory: str) -> Iterator[Journal | Unreadable]:
    """Every journal that nobody works on, locked; the caller closes each. Those without a first line go."""
    try:
        names = [name for name in os.listdir(directory) if name.endswith(_ENDING)]
    except FileNotFoundError:
        return
    for name in sorted(names):
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            journal = _open(folder, name)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):  # a power failure, say
            os.rename(name, name + _PUT_ASIDE, src_dir_fd=folder, dst_dir_fd=folder)
            os.close(folder)
            yield Unreadable(f"{directory}/{name}{_PUT_ASIDE}")
            continue
        if journal is None:
            os.close(folder)
        else:
            yield journal


def _open(folder: int, name: str) -> Journal | None:
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(name, dir_fd=folder)  # removed by who had the lock?
        first, *rest = _lines(descriptor) or [{}]
        if first.get("version") != _VERSION:
            if not first:  # killed before anything was done
                os.unlink(name, dir_fd=folder)
            os.close(descriptor)
            return None
        journal = Journal(folder, name, descriptor, _noted(first))
        journal.replay(rest)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.ENOENT):
            raise
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return journal


def _noted(first: Mapping[str, Any]) -> Noted:
    device, inode = first["object"]
    uid, gid = first["owner"]
    return Noted(
        identifier=first["identifier"],
        path=first["path"],
        pointer=first["pointer"],
        object=(device, inode),
        owner=(uid, gid),
        directory=first["directory"],
    )


def _lines(descriptor: int) -> list[dict[str, Any]]:
    content = b""
    while part := os.pread(descriptor, 1 << 20, len(content)):
        content += part
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def _task_as_list(task: Task) -> list[object]:
    step = task.step
    was = None if step.was is None else [getattr(step.was, key) for key in field_names(Host)]
    step_fields = [step.does.value, step.path, was, step.staged, step.mode, step.origin]
    return [step_fields, task.area, task.number, task.inode]


def _task_from_list(fields: Sequence[Any]) -> Task:
    (does, path, was, staged, mode, origin), area, number, inode = fields
    known = None if was is None else Host(*was)
    return Task(Step(Does(does), path, known, staged, mode, origin), area, number, inode)
