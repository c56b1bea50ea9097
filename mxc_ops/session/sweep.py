"""What processes that were killed left in the store: found, and removed.

Nothing that a living process works on is touched, and no sandbox: those end by a transition. Records that
cannot be read stay as they are, unless force is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from backends.frozen import frozen
from mxc_ops.session.entry import ALIVE, LOCK, Entry, Home, look
from mxc_ops.session.files import UNFINISHED, lock
from mxc_ops.session.places import (
    Foreign,
    closing,
    open_directory,
    open_file,
    open_place,
    same_object,
    telling,
)
from mxc_ops.session.record import Unreadable
from mxc_ops.session.root import GONE, NEW, changing, drop_dead_names, exists, put_away, tails
from mxc_ops.session.run_folder import owner_of, put_aside
from mxc_ops.session.trees import remove_tree

__all__ = ["Swept", "sweep"]

_WAIT_S = 0.05


@frozen
class Swept:
    """Paths that were removed, and those that were not, each with the end of a sentence that says why.

    `warnings`: what became of grants that were being copied back when that was killed.
    """

    removed: tuple[str, ...]
    kept: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()


class _Notes:
    def __init__(self) -> None:
        self.removed: list[str] = []
        self.kept: list[tuple[str, str]] = []


def sweep(home: Home, *, force: bool = False) -> Swept:
    """Remove the leftovers of makings and removals that died, of writings, names and sockets' folders.

    Parameters
    ----------
    force: also remove sandboxes whose record is corrupt or a newer version's, when nobody holds them. What is
        somebody else's stays in any case.

    Raises `BackendUnavailable` when the store is not ours, `LaunchFailed` when the system refuses.
    """
    notes = _Notes()
    state, run = home.places.state, home.places.run
    with telling(state.path), suppress(FileNotFoundError), closing(open_place(state)) as root:
        _sweep_made(root, state.path, notes)
        for tail in tails(root):
            one = look(home, root, tail)
            if isinstance(one, Unreadable):
                _unreadable(root, one, notes, force=force)
            elif isinstance(one, Entry):
                _sweep_writing(root, one, notes)
        with changing(root):
            notes.removed += [f"{state.path}/{name}" for name in drop_dead_names(root)]
    with telling(run.path), suppress(FileNotFoundError), closing(open_place(run)) as folders:
        _sweep_made(folders, run.path, notes)
        for tail in _without_sandbox(home, folders):
            with suppress(FileNotFoundError):
                gone = put_aside(tail, folders)
                _remove(gone, folders, run.path, notes, known_as=f"{run.path}/{tail}")
    return Swept(tuple(notes.removed), tuple(notes.kept))


def _sweep_made(place: int, path: str, notes: _Notes) -> None:
    """What is being made is locked by who makes it; what is being removed anybody may remove."""
    for name in os.listdir(place):
        if name.startswith(GONE):
            _remove(name, place, path, notes)
        elif name.startswith(NEW):
            try:
                opened = open_directory(name, place)
            except FileNotFoundError:
                continue
            except Foreign as error:
                notes.kept.append((f"{path}/{name}", error.why))
                continue
            with closing(opened):
                if lock(opened, 0) and same_object(opened, name, place):
                    _remove(name, place, path, notes)


def _sweep_writing(root: int, entry: Entry, notes: _Notes) -> None:
    """A record's next version that was never put in place."""
    with suppress(FileNotFoundError, Foreign), closing(open_directory(entry.record.tail, root)) as folder:
        os.stat(UNFINISHED, dir_fd=folder, follow_symlinks=False)
        with closing(open_file(LOCK, folder, os.O_RDWR | os.O_CREAT)) as held:
            if lock(held, _WAIT_S):
                os.unlink(UNFINISHED, dir_fd=folder)
                notes.removed.append(f"{entry.path}/{UNFINISHED}")


def _unreadable(root: int, one: Unreadable, notes: _Notes, *, force: bool) -> None:
    if not force or one.reason == "foreign":
        notes.kept.append((one.path, one.why))
        return
    try:
        with (
            closing(open_directory(one.tail, root)) as folder,
            closing(open_file(LOCK, folder, os.O_RDWR | os.O_CREAT)) as moving,
            closing(open_file(ALIVE, folder, os.O_RDWR | os.O_CREAT)) as alive,
        ):
            if not (lock(moving, _WAIT_S) and lock(alive, _WAIT_S)):
                notes.kept.append((one.path, "is in use"))
                return
            if not same_object(folder, one.tail, root):
                return
            with changing(root):
                gone = put_away(root, one.tail, "")
    except Foreign as error:
        notes.kept.append((one.path, error.why))
    except FileNotFoundError:
        return
    else:
        _remove(gone, root, one.path.rpartition("/")[0], notes, known_as=one.path)


def _without_sandbox(home: Home, folders: int) -> Iterator[str]:
    """Run folders of this store whose sandbox is not in it any more; a tail is never used again."""
    with suppress(FileNotFoundError), closing(open_place(home.places.state)) as root:
        for tail in tails(folders):
            if owner_of(tail, folders) == home.path(tail) and not exists(root, tail):
                yield tail


def _remove(name: str, place: int, path: str, notes: _Notes, *, known_as: str = "") -> None:
    try:
        remove_tree(name, place)
    except OSError as error:
        notes.kept.append((f"{path}/{name}", f"cannot be removed: {error.strerror}"))
    else:
        notes.removed.append(known_as or f"{path}/{name}")
