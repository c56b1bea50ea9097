"""Snapshots of a sandbox: what copies of it start from, kept in its folder under a name (blocking).

::

    snapshots/<name>/snapshot.json   what a backend has said, and how large each file is
    snapshots/<name>/<file>          a descriptor of a `backends.sessions.Copied`
    snapshots/.new-<random>/         one that is being made, or whose maker was killed

Whoever makes or removes one is in a transition of the sandbox. A name appears when everything is on the disk.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from backends.errors import LaunchFailed, Problem
from backends.frozen import frozen
from backends.qemu.memory_file import copy_data, save_nonzero
from backends.sessions import Copied, Scope
from mxc_ops.session.entry import Entry
from mxc_ops.session.errors import no_snapshot, snapshot_taken
from mxc_ops.session.files import read_file, write_all
from mxc_ops.session.ids import check_name
from mxc_ops.session.places import Foreign, closing, open_directory, open_file, telling
from mxc_ops.session.record import moment
from mxc_ops.session.trees import remove_tree

__all__ = ["Snapshot", "drop_unfinished", "has_unfinished", "keep", "kept", "remove", "snapshots"]

_FOLDER, _RECORD, _NEW = "snapshots", "snapshot.json", ".new-"
_SCHEMA_VERSION = 1
_MOST_RECORD = 1 << 20
_BLOCK = 512
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


@frozen
class Snapshot:
    """`created` is a `record.moment`, `disk_bytes` what it takes on the disk.

    `why` it cannot be used is the end of a sentence; the rest means nothing then.
    """

    name: str
    created: str
    disk_bytes: int
    scope: Scope
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        told = {"name": self.name, "created": self.created, "diskBytes": self.disk_bytes}
        return {**told, "why": self.why} if self.why else {**told, **self.scope.as_dict()}


def keep(entry: Entry, name: str, copied: Copied) -> Snapshot:
    """Keep what was copied; "" takes the next free number for a name. While its sandbox is in transition.

    Raises `ConfigError` (``name_malformed``), `PolicyRefused` (``snapshot_taken``), `LaunchFailed`: then
    nothing was kept.
    """
    if name:
        check_name(name)
    with entry.folder() as folder, telling(entry.path), closing(_opened(folder)) as place:
        _drop_unfinished(place)
        names = set(_names(place))
        name = name or str(max((int(one) for one in names if one.isdecimal()), default=0) + 1)
        if name in names:
            raise snapshot_taken(entry.id, name)
        making = f"{_NEW}{os.urandom(16).hex()}"
        try:
            os.mkdir(making, 0o700, dir_fd=place)
            with closing(open_directory(making, place)) as made:
                _write(made, copied)
            os.rename(making, name, src_dir_fd=place, dst_dir_fd=place)
            os.fsync(place)
        except BaseException:
            with suppress(OSError):  # gc tries again
                remove_tree(making, place)
            raise
        return _read(place, name)


def snapshots(entry: Entry) -> list[Snapshot]:
    """Those of a sandbox, the oldest first."""
    found: list[Snapshot] = []
    with _place(entry) as place:
        if place is not None:
            for name in _names(place):
                with suppress(FileNotFoundError):  # removed just now
                    found.append(_read(place, name))
    return sorted(found, key=lambda one: (one.created, one.name))


@contextmanager
def kept(entry: Entry, name: str) -> Generator[Copied]:
    """What copies start from, its descriptors open while this is entered.

    Raises `LifecycleError` (``stale_id``) when there is no such snapshot, `LaunchFailed` for one that is not
    what was kept.
    """
    with ExitStack() as opened:
        with entry.folder() as folder, telling(entry.path):
            place = opened.enter_context(closing(_named(folder, entry, name)))
            try:
                record = _record(place)
                fds = {
                    one: opened.enter_context(closing(open_file(one, place, os.O_RDONLY)))
                    for one in record["files"]
                }
                for one, size in record["files"].items():
                    if os.fstat(fds[one]).st_size != size:
                        raise ValueError(f"its {one} has another size")
            except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
                raise _broken(entry, name, str(error)) from error
        yield Copied(fds, record["said"])


def remove(entry: Entry, name: str) -> None:
    """Raises `LifecycleError` (``stale_id``) when there is none. While its sandbox is in transition."""
    with entry.folder() as folder, telling(entry.path):
        os.close(_named(folder, entry, name))
        with closing(open_directory(_FOLDER, folder)) as place:
            going = f"{_NEW}{os.urandom(16).hex()}"
            os.rename(name, going, src_dir_fd=place, dst_dir_fd=place)
            os.fsync(place)
            remove_tree(going, place)


def has_unfinished(entry: Entry) -> bool:
    """Whether one is being made or removed, or was by who was killed."""
    with _place(entry) as place:
        return place is not None and any(name.startswith(_NEW) for name in os.listdir(place))


def drop_unfinished(entry: Entry) -> list[str]:
    """Remove what killed processes left; the paths. While its sandbox is in transition."""
    with _place(entry) as place:
        dropped = [] if place is None else _drop_unfinished(place)
    return [f"{entry.path}/{_FOLDER}/{name}" for name in dropped]


@contextmanager
def _place(entry: Entry) -> Generator[int | None]:
    """Their folder, None where there is none."""
    with entry.folder() as folder, telling(entry.path):
        try:
            place = open_directory(_FOLDER, folder)
        except FileNotFoundError:
            yield None
            return
        with closing(place):
            yield place


def _opened(folder: int) -> int:
    with suppress(FileExistsError):
        os.mkdir(_FOLDER, 0o700, dir_fd=folder)
        os.fsync(folder)
    return open_directory(_FOLDER, folder)


def _named(folder: int, entry: Entry, name: str) -> int:
    check_name(name)
    try:
        with closing(open_directory(_FOLDER, folder)) as place:
            return open_directory(name, place)
    except FileNotFoundError as error:
        raise no_snapshot(entry.id, name) from error


def _names(place: int) -> Iterator[str]:
    return (name for name in os.listdir(place) if not name.startswith("."))


def _drop_unfinished(place: int) -> list[str]:
    dropped = [name for name in os.listdir(place) if name.startswith(_NEW)]
    for name in dropped:
        remove_tree(name, place)
    return dropped


def _write(made: int, copied: Copied) -> None:
    sizes: dict[str, int] = {}
    for name, source in copied.fds.items():
        with closing(open_file(name, made, _NEW_FILE)) as target:
            (save_nonzero if name == "memory" else copy_data)(source, target)
            os.fdatasync(target)
            sizes[name] = os.fstat(target).st_size
    record = {
        "schemaVersion": _SCHEMA_VERSION,
        "created": moment(),
        "files": sizes,
        "said": dict(copied.said),
    }
    with closing(open_file(_RECORD, made, _NEW_FILE)) as target:
        write_all(target, json.dumps(record).encode())
        os.fdatasync(target)
    os.fsync(made)


def _record(place: int) -> dict[str, Any]:
    """Raises `ValueError` for one that a newer version, or nobody of us, has written."""
    record: dict[str, Any] = json.loads(read_file(_RECORD, place, _MOST_RECORD))
    if record["schemaVersion"] != _SCHEMA_VERSION:
        raise ValueError("it was made by another version of mxc-ops")
    return record


def _read(place: int, name: str) -> Snapshot:
    try:
        with closing(open_directory(name, place)) as folder:
            used = sum(_used(folder, one) for one in os.listdir(folder))
            record = _record(folder)
    except (ValueError, KeyError, TypeError) as error:
        return Snapshot(name, "", 0, Scope(()), f"cannot be read: {error}")
    except Foreign as error:
        return Snapshot(name, "", 0, Scope(()), error.why)
    return Snapshot(name, record["created"], used, Copied({}, record["said"]).scope)


def _used(folder: int, name: str) -> int:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return status.st_blocks * _BLOCK if stat.S_ISREG(status.st_mode) else 0


def _broken(entry: Entry, name: str, why: str) -> LaunchFailed:
    message = f"the snapshot {name!a} of {entry.id} cannot be used: {why}"
    fix = f"mxc-ops session snapshot {entry.id} --remove {name}"
    return LaunchFailed(Problem("snapshot_broken", "--from", message, fix=fix))
