"""The folder of a sandbox's sockets: made anew by each start, found again by what the record says.

The same place may serve several stores (a user's, with another ``XDG_STATE_HOME``): a link in the folder,
whose text is the sandbox's folder, says whose it is.
"""

from __future__ import annotations

import os
from contextlib import suppress

from mxc_ops.session.places import Foreign, Places, closing, open_directory, open_place
from mxc_ops.session.root import GONE, workplace
from mxc_ops.session.trees import remove_tree

__all__ = ["SUSPENDED", "make_run_folder", "owner_of", "put_aside", "remove_run_folder"]

SUSPENDED = "suspended"
"""A file in the folder while everything in the sandbox stands still."""

_OWNER = "of"


def make_run_folder(places: Places, tail: str) -> str:
    """An empty folder, private, in the place of whatever an earlier start left; the answer is its path.

    The sandbox must be in transition. Raises `OSError`, `Foreign` and `BackendUnavailable`.
    """
    with closing(open_place(places.run, make=True)) as run:
        with suppress(FileNotFoundError):
            _remove(tail, run)
        name, made = workplace(run)
        with closing(made):
            try:
                os.symlink(f"{places.state.path}/{tail}", _OWNER, dir_fd=made)
                os.rename(name, tail, src_dir_fd=run, dst_dir_fd=run)
            except BaseException:
                remove_tree(name, run)
                raise
    return f"{places.run.path}/{tail}"


def remove_run_folder(places: Places, tail: str, path: str) -> None:
    """Remove what `make_run_folder` made, if it is still there. Raises `OSError`.

    Parameters
    ----------
    path: what it answered then, perhaps to a process with other places than ours.
    """
    above, _, name = path.rpartition("/")
    if name != tail:
        return
    with suppress(FileNotFoundError, Foreign), closing(open_directory(above, -1)) as run:
        if owner_of(tail, run) == f"{places.state.path}/{tail}":
            _remove(tail, run)


def _remove(tail: str, run: int) -> None:
    remove_tree(put_aside(tail, run), run)


def put_aside(tail: str, run: int) -> str:
    """Give a run folder the name of something that goes; the answer is that. Half removed, it would not say
    any more whose it is."""
    gone = f"{GONE}{os.urandom(16).hex()}"
    os.rename(tail, gone, src_dir_fd=run, dst_dir_fd=run)
    return gone


def owner_of(name: str, run: int) -> str:
    """The folder of the sandbox that a run folder belongs to; "" when it does not say."""
    try:
        with closing(open_directory(name, run)) as folder:
            return os.readlink(_OWNER, dir_fd=folder)
    except (OSError, Foreign):
        return ""
