"""Where sandboxes are kept, and the opening of what is ours there.

Root has ``/var/lib/mxc-ops/sessions``, and ``/run/mxc-ops/sessions`` for sockets; a user the same below the
XDG directories. What is above ``mxc-ops`` is the system's, or the user's own arrangement, links and all.
From there on everything is opened by descriptor, never through a link, and only when it is ours and nobody
else may change it; the sandboxes themselves nobody else may even look at.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress

from backends.frozen import frozen
from mxc_ops.session.errors import store_failed, store_not_ours

__all__ = [
    "Foreign",
    "Place",
    "Places",
    "closing",
    "default_places",
    "open_directory",
    "open_file",
    "open_place",
    "same_object",
    "telling",
]

_OURS = ("mxc-ops", "sessions")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PRIVATE, _UNCHANGED = 0o077, 0o022


class Foreign(Exception):
    """Something is there that is not ours alone. `why` is the end of a sentence."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


@frozen
class Place:
    """A directory: `base` is taken as it is, the `parts` below it must be ours, the last one private."""

    base: str
    parts: tuple[str, ...]

    @property
    def path(self) -> str:
        return "/".join([self.base.rstrip("/"), *self.parts])


@frozen
class Places:
    """`state` outlives the host's boots, `run` need not."""

    state: Place
    run: Place


def default_places() -> Places:
    """Those of whoever we are."""
    if os.geteuid() == 0:
        return Places(Place("/var/lib", _OURS), Place("/run", _OURS))
    state = os.environ.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):
        state = os.path.expanduser("~/.local/state")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/") and os.path.isdir(runtime):
        return Places(Place(state, _OURS), Place(runtime, _OURS))
    return Places(Place(state, _OURS), Place(state, (_OURS[0], "run", _OURS[1])))


def open_place(place: Place, *, make: bool = False) -> int:
    """The place's descriptor, which the caller closes. What is ours and open to others is closed to them.

    Parameters
    ----------
    make: make what is missing. Otherwise `FileNotFoundError` is raised.

    Raises `BackendUnavailable` when it cannot be trusted, `OSError` for what the system says.
    """
    here = _open_base(place.base, make=make)
    path = place.base.rstrip("/")
    try:
        for depth, part in enumerate(place.parts, 1):
            path = f"{path}/{part}"
            closed = _PRIVATE if depth == len(place.parts) else _UNCHANGED
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o777 & ~closed, dir_fd=here)
            try:
                there = open_directory(part, here, 0)
            except Foreign as error:
                raise store_not_ours(path, error.why, f"ls -ld {path}") from error
            os.close(here)
            here = there
            mode = stat.S_IMODE(os.fstat(here).st_mode)
            if mode & closed:
                os.fchmod(here, mode & ~closed)
    except BaseException:
        os.close(here)
        raise
    return here


def _open_base(base: str, *, make: bool) -> int:
    try:
        if make:
            os.makedirs(base, mode=0o700, exist_ok=True)
        return os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise store_not_ours(base, "is not ours to open", f"ls -ld {base}") from error


@contextmanager
def closing(descriptor: int) -> Generator[int]:
    """Close it at the end."""
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def telling(path: str) -> Generator[None]:
    """Tell what the system says, or what is not ours, as our error about `path`."""
    try:
        yield
    except Foreign as error:
        raise store_not_ours(path, error.why, f"ls -la {path}") from error
    except OSError as error:
        raise store_failed(path, error) from error


def open_directory(name: str, parent: int, closed_to_others: int = _PRIVATE) -> int:
    """A directory of ours in `parent`.

    Parameters
    ----------
    closed_to_others: permission bits that it must not have.

    Raises `Foreign`, also for a link or anything else in its place, and `OSError`.
    """
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError as error:
        raise Foreign("is not ours to open") from error
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise Foreign("is no directory") from error
    return _ours(descriptor, stat.S_IFDIR, closed_to_others)


def open_file(name: str, parent: int, flags: int) -> int:
    """A regular file of ours in `parent`, made private where `flags` have ``O_CREAT``.

    Raises `Foreign`, also for a link or anything else in its place, and `OSError`.
    """
    try:
        descriptor = os.open(name, flags | _FILE, 0o600, dir_fd=parent)
    except PermissionError as error:
        raise Foreign(f"has a {name} that is not ours to open") from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENODEV):
            raise
        raise Foreign(f"has a {name} that is no regular file") from error
    try:
        return _ours(descriptor, stat.S_IFREG, _PRIVATE)
    except Foreign as error:
        raise Foreign(f"has a {name} that {error.why}") from error


def same_object(descriptor: int, name: str, parent: int) -> bool:
    """Whether what was opened is still what has that name."""
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _ours(descriptor: int, kind: int, closed_to_others: int) -> int:
    status = os.fstat(descriptor)
    if stat.S_IFMT(status.st_mode) != kind:
        why = "is something else than it should be"
    elif status.st_uid != os.geteuid():
        why = f"belongs to uid {status.st_uid}"
    elif status.st_mode & closed_to_others:
        why = f"has mode {stat.S_IMODE(status.st_mode):04o}: others may use it"
    else:
        return descriptor
    os.close(descriptor)
    raise Foreign(why)
