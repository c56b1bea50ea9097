"""A sandbox in the store, as it was when somebody looked: what may be done with it."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from backends.frozen import frozen
from mxc_ops.session.errors import already_started, stale_id, unreadable
from mxc_ops.session.files import lock, probe, read_file, touched
from mxc_ops.session.journal import read_journal
from mxc_ops.session.places import (
    Foreign,
    Places,
    closing,
    open_directory,
    open_file,
    open_place,
    same_object,
    telling,
)
from mxc_ops.session.record import (
    MAX_RECORD_BYTES,
    Record,
    State,
    Unreadable,
    moment,
    read_record,
)
from mxc_ops.session.run_folder import SUSPENDED
from mxc_ops.session.states import Shown, derive

__all__ = ["ALIVE", "LOCK", "RECORD", "Entry", "Home", "later", "look", "open_entry", "process_start", "sign"]

RECORD, LOCK, ALIVE = "record.json", "lock", "alive"
_PROBES_S = 1.0
_MOST_LOOKS = 20
_MOST_DIGITS = 64


@frozen
class Home:
    """Where a store is, and the boot that the host is in."""

    places: Places
    boot_id: str

    def path(self, tail: str) -> str:
        return f"{self.places.state.path}/{tail}"


class Entry:
    """A sandbox: `record` and `shown`, its state, are of the moment that it was looked at. What changes it is
    a `transition.Transition`.

    `touched_s`: when it was used last, as far as the record does not tell, in seconds since the epoch.
    """

    def __init__(self, home: Home, record: Record, shown: Shown, touched_s: float = 0.0) -> None:
        self.home = home
        self.record = record
        self.shown = shown
        self._touched_s = touched_s

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def path(self) -> str:
        return self.home.path(self.record.tail)

    @property
    def is_suspended(self) -> bool:
        """Whether everything in it stands still, although it runs; looked up now."""
        return self.shown is Shown.RUNNING and os.path.exists(f"{self.record.run_folder}/{SUSPENDED}")

    @property
    def state(self) -> str:
        """What people are told of it: `shown`, or ``suspended``."""
        return "suspended" if self.is_suspended else self.shown.value

    def as_dict(self) -> dict[str, Any]:
        """What is told of it wherever one is told of; JSON-safe."""
        record = self.record
        return {
            "id": record.id,
            "name": record.name,
            "containment": record.containment,
            "state": self.state,
            "created": record.created,
            "lastUsed": self.last_used,
        }

    @property
    def last_used(self) -> str:
        """When it was used last, a `record.moment`."""
        return later(self.record.last_used, self._touched_s)

    @property
    def needs_reclaim(self) -> bool:
        """Whether the record tells of something that ended without being ended: it may have left things."""
        return self.shown.value != self.record.state.value

    @contextmanager
    def folder(self) -> Generator[int]:
        """The descriptor of its folder while this is entered. Raises `LifecycleError` (``stale_id``)."""
        with telling(self.home.places.state.path):
            opened = open_entry(self.home, self.record.tail, self.id)
        with closing(opened):
            yield opened

    def touch(self) -> None:
        """It is used right now. One system call that waits for nobody; the list tells it at once."""
        with self.folder() as folder, telling(self.path):
            os.utime(ALIVE, dir_fd=folder, follow_symlinks=False)

    def hold_alive(self, starts: int) -> int:
        """Become its supervisor: as long as the answered descriptor, or a duplicate, is open, it is alive.

        The calling process is who `supervisor` tells.

        Parameters
        ----------
        starts: the number of the start that this is for, from the record that says so.

        Raises `LifecycleError`: ``already_started`` when it has a supervisor, ``stale_id`` when it was
        removed, or who started it was killed and others went on from there.
        """
        with self.folder() as folder, telling(self.path):
            try:
                alive = open_file(ALIVE, folder, os.O_RDWR | os.O_CREAT)
            except FileNotFoundError as error:  # the folder was just removed
                raise stale_id(self.id) from error
            try:
                if not lock(alive, _PROBES_S):
                    raise already_started(self.id)
                self._require_start(folder, starts)
                sign(alive)
            except BaseException:
                os.close(alive)
                raise
            return alive

    def _require_start(self, folder: int, starts: int) -> None:
        tail = self.record.tail
        with closing(open_place(self.home.places.state)) as root:
            if not same_object(folder, tail, root):
                raise stale_id(self.id)
        record = read_record(read_file(RECORD, folder, MAX_RECORD_BYTES), tail, self.path)
        if isinstance(record, Unreadable):
            raise unreadable(record.path, record.reason, record.why)
        if record.state is not State.STARTING or record.starts != starts:
            raise stale_id(self.id, "this start of it was given up", fix=f"mxc-ops session start {self.id}")

    def supervisor(self) -> tuple[int, int] | None:
        """Who holds it now, whatever the record says: (pid, start in clock ticks since boot), else None.

        None also for the instant between a supervisor's first breath and its entry.
        """
        with self.folder() as folder, telling(self.path):
            try:
                words = read_file(ALIVE, folder, _MOST_DIGITS).split()
            except FileNotFoundError:
                return None
            if len(words) != 2 or not all(word.isdigit() for word in words) or not probe(ALIVE, folder)[0]:
                return None
        pid, start = map(int, words)
        return (pid, start) if start and process_start(pid) == start else None

    def is_held(self) -> bool:
        """Whether anybody at all keeps it alive, or is about to become its supervisor."""
        with self.folder() as folder, telling(self.path):
            return probe(ALIVE, folder)[0]

    def journal(self) -> list[dict[str, Any]]:
        """Its transitions that are still noted, oldest first."""
        with self.folder() as folder, telling(self.path):
            return read_journal(folder)


def sign(alive: int) -> None:
    """Say that the calling process is who holds this, from now on."""
    os.ftruncate(alive, 0)
    os.pwrite(alive, b"%d %d\n" % (os.getpid(), process_start(os.getpid())), 0)


def later(last_used: str, touched_s: float) -> str:
    """The later one, as a `record.moment`. A time to come, from a clock that was wrong, is now."""
    return max(last_used, moment(min(touched_s, time.time())))


def process_start(pid: int) -> int:
    """When a process was started, in clock ticks since boot; 0 when it is gone. A pid alone may be reused."""
    try:
        with closing(os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)) as descriptor:
            return int(os.read(descriptor, 4096).rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0


def open_entry(home: Home, tail: str, identifier: str) -> int:
    """The sandbox's folder, which the caller closes.

    Raises `LifecycleError` (``stale_id``), `LaunchFailed` and `OSError`.
    """
    try:
        with closing(open_place(home.places.state)) as root:
            return open_directory(tail, root)
    except FileNotFoundError as error:
        raise stale_id(identifier) from error
    except Foreign as error:
        raise unreadable(home.path(tail), "foreign", error.why) from error


def look(home: Home, root: int, tail: str) -> Entry | Unreadable | None:
    """The sandbox with this folder in `root`; None when there is none, or it is removed just now."""
    path = home.path(tail)
    try:
        folder = open_directory(tail, root)
    except FileNotFoundError:
        return None
    except Foreign as error:
        return Unreadable(tail, path, "foreign", error.why)
    with closing(folder):
        try:
            return _look(home, folder, tail)
        except Foreign as error:
            return Unreadable(tail, path, "foreign", error.why)
        except FileNotFoundError:
            if same_object(folder, tail, root):
                return Unreadable(tail, path, "corrupt", f"has no {RECORD}")
            return None


def _look(home: Home, folder: int, tail: str) -> Entry | Unreadable:
    before = b""
    looks = 0
    while True:
        looks += 1
        text = read_file(RECORD, folder, MAX_RECORD_BYTES)
        record = read_record(text, tail, home.path(tail))
        if isinstance(record, Unreadable):
            return record
        if record.state is State.PROVISIONED:
            return Entry(home, record, Shown.PROVISIONED, touched(ALIVE, folder))
        alive, touched_s = probe(ALIVE, folder)
        moving = not (alive and record.state is State.RUNNING) and probe(LOCK, folder)[0]
        shown = derive(record, home.boot_id, alive=alive, moving=moving)
        if shown is not Shown.STALE or text == before or looks == _MOST_LOOKS:
            return Entry(home, record, shown, touched_s)
        before = text  # it may have been stopped in between: then the record has changed
