"""The sandboxes of whoever we are: made, found by id, shortened id or name, and listed.

There is no daemon and no index: a folder per sandbox is all there is, and every process may look, or change
it under the sandbox's lock. Another user's sandboxes are in another place, which is not ours to open.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress

from backends.frozen import replace
from mxc_ops.session.entry import ALIVE, LOCK, RECORD, Entry, Home, look
from mxc_ops.session.errors import ambiguous, name_taken, not_provisioned, stale_id, unreadable
from mxc_ops.session.files import replace_file
from mxc_ops.session.ids import Written, matching, parse
from mxc_ops.session.journal import note
from mxc_ops.session.places import Places, closing, default_places, open_file, open_place, telling
from mxc_ops.session.record import Record, Unreadable, as_text
from mxc_ops.session.root import changing, claim, named, tails, workplace
from mxc_ops.session.states import Shown
from mxc_ops.session.trees import remove_tree

__all__ = ["Store"]

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Store:
    """The sandboxes in these places.

    Parameters
    ----------
    places: by default those of whoever we are.
    boot_id: the host's boot; by default the one that it is in.
    """

    def __init__(self, places: Places | None = None, *, boot_id: str = "") -> None:
        self.home = Home(places or default_places(), boot_id or _boot_id())

    def create(self, record: Record, fill: Callable[[int], None] | None = None) -> Entry:
        """Keep a new sandbox: there whole, or, when anything fails or we are killed, not there at all.

        Parameters
        ----------
        record: from `record.new_record`.
        fill: called with the descriptor of the sandbox's folder before anybody can see it; may put more
            files there.

        Raises `PolicyRefused` when the name is taken, `LaunchFailed` when the system refuses, and what `fill`
        raises.
        """
        record = replace(record, boot_id=self.home.boot_id)
        with telling(self.path):
            root = open_place(self.home.places.state, make=True)
        with closing(root):
            with telling(self.path):
                name, folder = workplace(root)
            try:
                if fill is not None:
                    fill(folder)
                with telling(self.path):
                    _write(folder, record)
                    _publish(root, name, record)
            except BaseException:
                with suppress(OSError):  # then it is a leftover, like that of a process that was killed
                    remove_tree(name, root)
                raise
            finally:
                os.close(folder)
        return Entry(self.home, record, Shown(record.state.value))

    def open(self, text: str) -> Entry:
        """The sandbox that an id, the unique beginning of one, or a name stands for.

        A whole id can be nothing else; a name goes before the beginning of an id.

        Raises `LifecycleError`: ``malformed_id``, also when several ids begin so; ``stale_id`` for an id, and
        ``not_provisioned`` for anything else, that leads nowhere. Raises `LaunchFailed` when what is kept of
        the sandbox is not ours to interpret.
        """
        written = parse(text)
        found: list[Entry | Unreadable] = []
        with self._opened() as root:
            if root is not None:
                found = [one for one in self._candidates(root, written) if _fits(one, written)]
        if not found:
            raise stale_id(text) if written.whole else not_provisioned(text)
        if len(found) > 1:
            raise ambiguous(text, [one.id if isinstance(one, Entry) else one.tail for one in found])
        if isinstance(found[0], Unreadable):
            raise unreadable(found[0].path, found[0].reason, found[0].why)
        return found[0]

    def entries(self) -> list[Entry | Unreadable]:
        """Every sandbox, those made first at the top, and then whatever cannot be read.

        Raises `BackendUnavailable` when the store is not ours, `LaunchFailed` when the system refuses.
        """
        with self._opened() as root:
            found = [] if root is None else [look(self.home, root, tail) for tail in tails(root)]
        entries = [one for one in found if isinstance(one, Entry)]
        entries.sort(key=lambda entry: (entry.record.created, entry.id))
        unreadables = [one for one in found if isinstance(one, Unreadable)]
        unreadables.sort(key=lambda one: one.tail)
        return [*entries, *unreadables]

    @property
    def path(self) -> str:
        return self.home.places.state.path

    @contextmanager
    def _opened(self) -> Generator[int | None]:
        """The store's directory; None when there is none yet."""
        with telling(self.path):
            try:
                root = open_place(self.home.places.state)
            except FileNotFoundError:
                yield None
                return
            with closing(root):
                yield root

    def _candidates(self, root: int, written: Written) -> Iterator[Entry | Unreadable]:
        if written.whole:
            of_id = [written.digits]
        else:
            holder = named(root, written.name) if written.name else ""
            one = look(self.home, root, holder) if holder else None
            if isinstance(one, Unreadable) or (one is not None and one.record.name == written.name):
                yield one
                return
            of_id = matching(written, tails(root))
        for tail in of_id:
            one = look(self.home, root, tail)
            if one is not None:
                yield one


def _write(folder: int, record: Record) -> None:
    for name in (LOCK, ALIVE):
        os.close(open_file(name, folder, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    note(folder, {"at": record.created, "phase": "provision", "to": record.state.value, "by": os.getpid()})
    replace_file(RECORD, folder, as_text(record))
    os.fsync(folder)


def _publish(root: int, name: str, record: Record) -> None:
    with changing(root):
        holder = claim(root, record.name, record.tail) if record.name else ""
        if holder:
            raise name_taken(record.name, holder)
        os.rename(name, record.tail, src_dir_fd=root, dst_dir_fd=root)
        os.fsync(root)


def _fits(one: Entry | Unreadable, written: Written) -> bool:
    return not written.prefix or isinstance(one, Unreadable) or one.id.startswith(f"{written.prefix}:")


def _boot_id() -> str:
    with closing(os.open(_BOOT_ID, os.O_RDONLY | os.O_CLOEXEC)) as descriptor:
        return os.read(descriptor, 64).decode().strip()
