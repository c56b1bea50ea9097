"""What changes a store: places to build in, publishing, names, removal. Every step is one rename."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from backends.errors import PrepFailed, Problem
from vm_images.rootfs import remove_tree
from vm_images.store import NAMES, is_key, same_directory

__all__ = ["collect", "publish", "remove_key", "remove_name", "set_name", "sweep", "workplace", "writing"]

_BUILDING, _REMOVING = ".building-", ".removing-"


@contextmanager
def workplace(
    store: Path,
    token: str = "",
    *,
    waiting: Callable[[], None] | None = None,
    clear: Callable[[Path], None] = remove_tree,
) -> Generator[Path]:
    """A directory in the store to build in, for us alone, empty, and gone at the end unless published.

    Parameters
    ----------
    token: what is built: whoever builds the same waits. By default something nobody else builds.
    waiting: called when somebody else builds it already, before we wait.
    clear: removes a directory with all that is built in such places.

    Raises `PrepFailed` when nothing can be written there.
    """
    place = store / f"{_BUILDING}{token or secrets.token_hex(16)}"
    with writing(store):
        make_store(store)
        fd = _locked(place, waiting)
    try:
        for left in list(place.iterdir()):
            clear(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        yield place
    finally:
        if same_directory(fd, str(place)):
            clear(place)
        os.close(fd)


def _locked(place: Path, waiting: Callable[[], None] | None) -> int:
    while True:
        with suppress(FileExistsError):
            place.mkdir(mode=0o755)
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting()
                fcntl.flock(fd, fcntl.LOCK_EX)
        except BaseException:
            os.close(fd)
            raise
        if same_directory(fd, str(place)):
            return fd
        os.close(fd)  # whoever held it has published it, or cleaned up


def make_store(store: Path) -> None:
    """Make the store, readable by everybody whatever our umask is; what existed before stays as it is."""
    missing = [folder for folder in (store, *store.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)


def publish(place: Path, store: Path, key: str) -> None:
    """Put what was made in a `workplace` into the store, in one step and to stay.

    Everything in it becomes readable to everybody. What was there under this key goes: something
    broken, or imported.
    """
    with writing(store):
        for part in place.iterdir():
            part.chmod(0o644)
            fd = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
            os.fsync(fd)
            os.close(fd)
        place.chmod(0o755)
        try:
            place.rename(store / key)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _away(store / key)
            place.rename(store / key)
        _sync(store)


def set_name(store: Path, name: str, key: str, folder: str = NAMES) -> None:
    """Let a name lead to an image; it may have led to another one.

    Parameters
    ----------
    folder: of the store, which has the names.
    """
    with writing(store):
        names = store / folder
        if not names.is_dir():
            names.mkdir(exist_ok=True)
            names.chmod(0o755)
        link = names / f".{name}-{secrets.token_hex(8)}"
        link.symlink_to(f"../{key}")
        link.replace(names / name)
        _sync(names)


def remove_name(store: Path, name: str, folder: str = NAMES) -> None:
    with writing(store):
        (store / folder / name).unlink(missing_ok=True)


def remove_key(store: Path, key: str, *, unless: Callable[[str], bool] | None = None) -> bool:
    """Remove an image; False while somebody uses it.

    Parameters
    ----------
    unless: asked about the key once nobody else can name or use it any more; True keeps it.
    """
    place = store / key
    with writing(store):
        try:
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        except NotADirectoryError:
            place.unlink()
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            if unless is not None and unless(key):
                return False
            if same_directory(fd, str(place)):
                _away(place)
            return True
        finally:
            os.close(fd)


def collect(
    store: Path, is_named: Callable[[str], bool], clear: Callable[[Path], None] = remove_tree
) -> tuple[list[str], list[str], list[str]]:
    """Remove what nobody needs: images without a name, the remains of builds that died.

    Parameters
    ----------
    is_named: whether a name leads to a key.
    clear: see `workplace`.

    Returns the names of what was removed, of the images that are in use, and of builds that are going on.
    """
    removed, going_on = sweep(store, clear)
    used: list[str] = []
    for entry in _entries(store):
        if is_key(entry.name) and not is_named(entry.name):
            (removed if remove_key(store, entry.name, unless=is_named) else used).append(entry.name)
    return removed, used, going_on


def sweep(store: Path, clear: Callable[[Path], None] = remove_tree) -> tuple[list[str], list[str]]:
    """Remove the remains of builds and removals that died; returns their names, and those that go on.

    Parameters
    ----------
    clear: see `workplace`.
    """
    removed: list[str] = []
    going_on: list[str] = []
    for entry in _entries(store):
        if entry.name.startswith((_BUILDING, _REMOVING)):
            (removed if _remove_dead(entry, clear) else going_on).append(entry.name)
    return removed, going_on


def _entries(store: Path) -> list[Path]:
    return sorted(store.iterdir()) if store.is_dir() else []


def _remove_dead(entry: Path, clear: Callable[[Path], None]) -> bool:
    with writing(entry.parent):
        try:
            fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True  # by another one who sweeps
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            if same_directory(fd, str(entry)):
                clear(entry)
            return True
        finally:
            os.close(fd)


def _away(place: Path) -> None:
    """Renamed first, so that an interrupted removal leaves no half of an image."""
    going = place.with_name(f"{_REMOVING}{secrets.token_hex(8)}")
    place.rename(going)
    remove_tree(going)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def writing(store: Path) -> Generator[None]:
    """Tell what the system says as our error: no rights, no space, no such place."""
    try:
        yield
    except OSError as error:
        message = f"the image store {store} cannot be changed: {error.strerror}: {error.filename}"
        fix = f"look at it: df -h {store}; ls -ld {store}"
        raise PrepFailed(Problem("image_store", "", message, fix=fix)) from error
