"""What a guest sends back, into a picture of it; only content that is new is stored."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator

from backends.base import ObjectKind
from backends.frozen import replace
from backends.guest_files.merge import GuestObject
from backends.guest_files.plan import ShippedGrant
from backends.guest_files.snapshot import EMPTY, Shipped, Snapshot
from backends.guest_files.staging import Staging
from backends.guest_files.tar_reader import ArchiveRefused, Entry, StreamLimits, read_archive

__all__ = ["receive"]

_IN_MEMORY_MOST = 1 << 20
_KINDS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)


def receive(
    grant: ShippedGrant,
    snapshot: Snapshot,
    chunks: Iterator[bytes],
    limits: StreamLimits,
    staging: Staging,
    warnings: list[str],
) -> dict[str, GuestObject]:
    """Read the archive to its end.

    Raises `ArchiveRefused` for one that no agent of ours would send, or that holds too much, and `OSError`
    when there is no room for what is new.
    """
    guest: dict[str, GuestObject] = {}
    special = 0
    for entry, body in read_archive(chunks, limits):
        if not guest and stat.S_IFMT(entry.mode) != _top_kind(grant):
            raise ArchiveRefused("what was granted has become another kind of object")
        was = snapshot.shipped.get(entry.path)
        if stat.S_IFMT(entry.mode) in _KINDS:
            guest[entry.path] = _object(entry, body, was, staging)
        else:
            special += 1
            if was is not None:  # as if nothing had happened to it
                guest[entry.path] = GuestObject(was.mode, was.digest, was.target)
    if "" not in guest or (grant.kind is ObjectKind.FILE and len(guest) != 1):
        raise ArchiveRefused("it does not hold what was granted")
    if special:
        warnings.append(
            f"{grant.pointer}: {special} sockets, fifos or devices that the command made in {grant.path!r}"
            " were not copied back"
        )
    return guest


def _top_kind(grant: ShippedGrant) -> int:
    return stat.S_IFDIR if grant.kind is ObjectKind.DIRECTORY else stat.S_IFREG


def _object(entry: Entry, body: Iterator[bytes], was: Shipped | None, staging: Staging) -> GuestObject:
    if stat.S_ISDIR(entry.mode):
        return GuestObject(entry.mode)
    if stat.S_ISLNK(entry.mode):
        # Its permissions mean nothing, and file systems differ in what they show for them.
        mode = was.mode if was is not None and stat.S_ISLNK(was.mode) else stat.S_IFLNK | 0o777
        changed = was is None or (was.mode, was.target) != (mode, entry.target)
        return GuestObject(mode, EMPTY, entry.target, staging.add_link(entry.target) if changed else None)
    return _file(entry, body, was, staging)


def _file(entry: Entry, body: Iterator[bytes], was: Shipped | None, staging: Staging) -> GuestObject:
    digest = hashlib.sha256()
    if entry.size <= _IN_MEMORY_MOST:
        content = b"".join(body)
        digest.update(content)
        found = GuestObject(entry.mode, digest.digest())
        if _same_content(found, was):
            return found
        return replace(found, staged=staging.add_file((content,), entry.mode, entry.mtime_ns))

    def noted() -> Iterator[bytes]:
        for part in body:
            digest.update(part)
            yield part

    staged = staging.add_file(noted(), entry.mode, entry.mtime_ns)
    found = GuestObject(entry.mode, digest.digest(), staged=staged)
    if _same_content(found, was):
        staging.discard(staged)
        return replace(found, staged=None)
    return found


def _same_content(found: GuestObject, was: Shipped | None) -> bool:
    return was is not None and stat.S_ISREG(was.mode) and was.digest == found.digest
