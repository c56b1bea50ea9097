"""One transition of a sandbox at a time: who has it may change the record, or remove the sandbox.

What is written is in the journal first, then in the record, each on the disk before the next step. The lock
ends with the process: a transition that is killed leaves a record that says how far it came. A supervisor
whose starter was killed may come to life at any later time; it gives up unless the record still tells of its
start, and no record begins or ends a start while a supervisor lives.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any

from backends.frozen import replace
from mxc_ops.session.entry import ALIVE, LOCK, RECORD, Entry, later, open_entry
from mxc_ops.session.errors import already_started, busy, leftover, stale_id, unreadable
from mxc_ops.session.files import lock, probe, read_file, replace_file, touched
from mxc_ops.session.journal import note
from mxc_ops.session.places import closing, open_file, open_place, same_object, telling
from mxc_ops.session.record import MAX_RECORD_BYTES, Record, State, Unreadable, as_text, moment, read_record
from mxc_ops.session.root import changing, put_away
from mxc_ops.session.run_folder import make_run_folder, remove_run_folder
from mxc_ops.session.states import Shown, admit, derive
from mxc_ops.session.trees import remove_tree

__all__ = ["Transition"]

_WAIT_S = 60.0
_ENDING_S = 1.0


class Transition:
    """``with Transition(entry, "start") as moving:`` nobody else changes the sandbox.

    Inside, `record` is what is kept now, `shown` the state, exactly: nobody else is moving.

    Parameters
    ----------
    entry: which sandbox.
    phase: for the journal, and for `admit`.
    wait_s: how long to wait for another one's transition.

    Entering raises `LifecycleError` (``stale_id``) when the sandbox was removed, `LaunchFailed` when another
    transition lasts too long (retryable) or the record cannot be read.
    """

    record: Record
    shown: Shown

    def __init__(self, entry: Entry, phase: str, *, wait_s: float = _WAIT_S) -> None:
        self._entry = entry
        self._home = entry.home
        self._phase = phase
        self._wait_s = wait_s
        self._folder = self._lock = -1

    def __enter__(self) -> Transition:
        with telling(self._entry.path):
            try:
                self._enter()
            except BaseException:
                self._leave()
                raise
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._leave()

    @property
    def last_used(self) -> str:
        """When it was used last, a `record.moment`; looked up now."""
        return later(self.record.last_used, touched(ALIVE, self._folder))

    def admit(self) -> None:
        """Raise the code of a phase that this state does not allow (see `states.admit`)."""
        admit(self._phase, self.shown, self._entry.id)

    def save(self, record: Record, noted: Mapping[str, Any] | None = None) -> None:
        """Keep this from now on, written in this boot. That it is used is for `Entry.touch` to say.

        `noted` is what the journal is to say besides; JSON-safe.

        Raises `LifecycleError` (``already_started``) for the state provisioned or starting while there is a
        supervisor, which may take a moment to end. Raises `ValueError` for a record of another sandbox, for a
        start that is not the next one in number, and for what could not be read again; `LaunchFailed` when it
        cannot be written: then what was kept before still is.
        """
        for name in ("id", "name", "containment", "created"):
            if getattr(record, name) != getattr(self.record, name):
                raise ValueError(f"a sandbox keeps its {name}")
        if record.state is State.STARTING and record.starts != self.record.starts + 1:
            raise ValueError("each start has a number of its own")
        record = replace(record, boot_id=self._home.boot_id, last_used=self.last_used)
        text = as_text(record)
        without = record.state in (State.PROVISIONED, State.STARTING)
        with self._without_supervisor() if without else nullcontext():
            self._keep(record, text, noted)
        self.shown = Shown(record.state.value)

    def amend(self, document: Mapping[str, Any], document_hash: str, noted: Mapping[str, Any]) -> None:
        """Keep another document from now on, whatever state it is in. Raises as `save`."""
        record = replace(self.record, document=document, document_hash=document_hash)
        self._keep(record, as_text(record), noted)

    def _keep(self, record: Record, text: bytes, noted: Mapping[str, Any] | None) -> None:
        entry: dict[str, Any] = {
            **(noted or {}),
            "at": moment(),
            "phase": self._phase,
            "from": self.record.state.value,
            "to": record.state.value,
            "by": os.getpid(),
        }
        with telling(self._entry.path):
            note(self._folder, entry)
            replace_file(RECORD, self._folder, text)
        self.record = record

    def make_run_folder(self) -> str:
        """An empty folder for sockets; its path, which `record` has too, to be saved with the next state."""
        with telling(self._home.places.run.path):
            path = make_run_folder(self._home.places, self.record.tail)
        self.record = replace(self.record, run_folder=path)
        return path

    def remove_run_folder(self) -> None:
        """Remove the sockets' folder, if there is one."""
        with telling(self._home.places.run.path):
            remove_run_folder(self._home.places, self.record.tail, self.record.run_folder)

    def remove(self) -> None:
        """Remove the sandbox, its name and its sockets' folder from the store.

        Raises `LifecycleError` (``already_started``) while it has a supervisor, and `LaunchFailed` when
        something of it resists: then it is no sandbox any more, and `gc` tries again.
        """
        tail = self.record.tail
        with telling(self._entry.path), closing(open_place(self._home.places.state)) as root:
            with self._without_supervisor():
                self.remove_run_folder()
                with changing(root):
                    gone = put_away(root, tail, self.record.name)
            try:
                remove_tree(gone, root)
            except OSError as error:
                raise leftover(f"{self._home.places.state.path}/{gone}", error) from error

    @contextmanager
    def _without_supervisor(self) -> Generator[None]:
        """There is none, and none can come to life, while this is entered."""
        with closing(open_file(ALIVE, self._folder, os.O_RDWR | os.O_CREAT)) as alive:
            if not lock(alive, _ENDING_S):
                raise already_started(self._entry.id)
            yield

    def _enter(self) -> None:
        tail = self._entry.record.tail
        self._folder = open_entry(self._home, tail, self._entry.id)
        try:
            self._lock = open_file(LOCK, self._folder, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError as error:  # nothing can be made in a folder that was just removed
            raise stale_id(self._entry.id) from error
        if not lock(self._lock, self._wait_s):
            raise busy(self._entry.id, self._wait_s)
        with closing(open_place(self._home.places.state)) as root:
            if not same_object(self._folder, tail, root):
                raise stale_id(self._entry.id)
        record = read_record(read_file(RECORD, self._folder, MAX_RECORD_BYTES), tail, self._entry.path)
        if isinstance(record, Unreadable):
            raise unreadable(record.path, record.reason, record.why)
        self.record = record
        alive, _ = probe(ALIVE, self._folder)
        self.shown = derive(record, self._home.boot_id, alive=alive, moving=False)

    def _leave(self) -> None:
        for descriptor in (self._lock, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._folder = self._lock = -1
