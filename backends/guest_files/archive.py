"""A read-write grant as a tar archive for the guest, and the note of what was handed over."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from backends.base import Handles, ObjectKind
from backends.guest_files import tree
from backends.guest_files.plan import FilesPlan, GuestPut, Made, ShippedGrant
from backends.guest_files.sizes import COPIES, Caps, check_sizes
from backends.guest_files.snapshot import EMPTY, NOT_OURS, Shipped, Snapshot, host_state
from backends.guest_files.tar_writer import END, Member, header, padding

__all__ = ["archive", "check_copies", "made_archive", "put_content"]

_CHUNK = 256 << 10
_ROOT = (0, 0)
_KINDS = {ObjectKind.DIRECTORY: stat.S_IFDIR, ObjectKind.FILE: stat.S_IFREG, ObjectKind.OTHER: stat.S_IFLNK}


def check_copies(plan: FilesPlan, handles: Handles, caps: Caps = COPIES) -> None:
    """To be called before anything is copied: raises `PolicyRefused` when the read-write grants hold more."""
    check_sizes(plan.writable, handles, caps)


def put_content(
    plan: FilesPlan, step: GuestPut, handles: Handles, snapshots: dict[int, Snapshot]
) -> Iterator[bytes]:
    """The archive that `step` wants, in chunks of at most 256 KiB.

    The snapshot of a read-write grant is entered in `snapshots` under its number, complete with the last
    chunk. Raises `LaunchFailed` when the grant is not the object that was checked.
    """
    if step.grant is None:
        return iter([made_archive(step.made)])
    snapshot = snapshots[step.grant] = Snapshot()
    return archive(plan.writable[step.grant], handles, snapshot)


def archive(grant: ShippedGrant, handles: Handles, snapshot: Snapshot) -> Iterator[bytes]:
    """The grant: ``.`` first, then ``./…`` parents before children; a file is the one entry ``.``.

    Owners and modes are as in `ShippedGrant`. A file that changes while it is read has the size it had at
    first, and its old times in the snapshot: the comparison later takes it for changed by the host.
    """
    withheld = tree.Withheld()
    parts: list[bytes] = []
    held = 0
    for found in tree.walk(grant, handles, withheld):
        for part in _entry(grant, found, snapshot, withheld):
            parts.append(part)
            held += len(part)
            if held >= _CHUNK:
                joined = b"".join(parts)
                whole = held - held % _CHUNK
                yield from (joined[start : start + _CHUNK] for start in range(0, whole, _CHUNK))
                parts, held = [joined[whole:]], held - whole
    snapshot.warnings += withheld.warnings(grant)
    for made in grant.made:
        digest = hashlib.sha256().digest() if made.kind is ObjectKind.FILE else EMPTY
        snapshot.shipped[made.path] = Shipped(_member(made).mode, NOT_OURS, digest, made.target)
    last = b"".join((*parts, *(header(_member(made)) for made in grant.made), END))
    yield from (last[start : start + _CHUNK] for start in range(0, len(last), _CHUNK))


def made_archive(made: Sequence[Made]) -> bytes:
    """Directories, empty files and links, all root's."""
    return b"".join((*(header(_member(each)) for each in made), END))


def _member(made: Made) -> Member:
    return Member(_name(made.path), _KINDS[made.kind] | made.mode, _ROOT, target=made.target)


def _name(path: str) -> str:
    return f"./{path}" if path else "."


def _entry(
    grant: ShippedGrant, found: tree.Found, snapshot: Snapshot, withheld: tree.Withheld
) -> Iterator[bytes]:
    if stat.S_ISREG(found.status.st_mode):
        yield from _file(grant, found, snapshot, withheld)
        return
    target = ""
    if stat.S_ISLNK(found.status.st_mode):
        try:
            target = os.readlink(found.name, dir_fd=found.directory)
        except OSError:  # removed, or something else by now
            return
    mode = found.mode & ~stat.S_ISVTX  # not brought back
    snapshot.shipped[found.path] = Shipped(mode, host_state(found.status), EMPTY, target, found.withheld)
    yield header(_described(grant, found, 0, target))


def _described(grant: ShippedGrant, found: tree.Found, size: int, target: str = "") -> Member:
    ids = tree.inside_ids(grant, found.status)
    return Member(_name(found.path), found.mode, ids, found.status.st_mtime_ns, size, target)


def _file(
    grant: ShippedGrant, found: tree.Found, snapshot: Snapshot, withheld: tree.Withheld
) -> Iterator[bytes]:
    digest = hashlib.sha256()
    source = None if found.withheld else tree.open_file(grant, found)
    size = 0 if source is None else found.status.st_size
    yield header(_described(grant, found, size))
    if source is not None:
        try:
            yield from _content(source, size, digest.update)
            if os.fstat(source).st_mtime_ns != found.status.st_mtime_ns:
                withheld.add(tree.CHANGING, found.path)
        finally:
            os.close(source)
    snapshot.content_bytes += size
    snapshot.largest_bytes = max(snapshot.largest_bytes, size)
    snapshot.shipped[found.path] = Shipped(
        found.mode, host_state(found.status), digest.digest(), withheld=found.withheld
    )


def _content(source: int, size: int, note: Callable[[bytes], None]) -> Iterator[bytes]:
    """Exactly `size` bytes, with zeros for what is gone, and the padding."""
    left = size
    while left:
        part = os.read(source, min(left, _CHUNK)) or bytes(min(left, _CHUNK))
        note(part)
        left -= len(part)
        yield part
    yield padding(size)
