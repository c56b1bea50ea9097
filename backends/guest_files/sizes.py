"""How much a grant holds, and the most that a virtual machine is handed."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from backends.base import Handles
from backends.errors import PolicyRefused, Problem
from backends.frozen import frozen
from backends.guest_files.plan import ShippedGrant
from backends.guest_files.tree import Withheld, walk

__all__ = ["COPIES", "READ_ONLY_DISK", "Caps", "Size", "check_sizes", "human", "measure"]


@frozen
class Caps:
    """`content_bytes` of files and `entries` (files, directories, links), over all grants of a kind."""

    content_bytes: int
    entries: int


READ_ONLY_DISK = Caps(4 << 30, 1_000_000)
COPIES = Caps(1 << 30, 1_000_000)


@frozen
class Size:
    """`content_bytes` without holes, `apparent_bytes` with them; `whole`: counting was not given up."""

    content_bytes: int
    apparent_bytes: int
    entries: int
    whole: bool = True


def measure(grant: ShippedGrant, handles: Handles, most_entries: int) -> Size:
    """Count without reading; stops after `most_entries`.

    Raises `LaunchFailed` as `walk` does.
    """
    content = apparent = entries = 0
    for found in walk(grant, handles, Withheld()):
        entries += 1
        if entries > most_entries:
            return Size(content, apparent, entries, whole=False)
        status = found.status
        if stat.S_ISREG(status.st_mode) and not found.withheld:
            apparent += status.st_size
            content += min(status.st_size, status.st_blocks * 512)
    return Size(content, apparent, entries)


def check_sizes(grants: Sequence[ShippedGrant], handles: Handles, caps: Caps) -> Size:
    """The sum over `grants`, which must be of one kind.

    Copied files are counted with their holes: an archive has none.

    Raises `PolicyRefused` that names the largest grant when they hold too much, `LaunchFailed` as `walk`.
    """
    sizes: list[Size] = []
    for grant in grants:
        sizes.append(measure(grant, handles, caps.entries))
        if not sizes[-1].whole:
            raise _too_many(grant, caps)
    total = Size(
        sum(size.content_bytes for size in sizes),
        sum(size.apparent_bytes for size in sizes),
        sum(size.entries for size in sizes),
    )
    held = [
        size.apparent_bytes if g.writable else size.content_bytes
        for g, size in zip(grants, sizes, strict=True)
    ]
    if sum(held) > caps.content_bytes:
        largest = held.index(max(held))
        raise _too_large(grants[largest], held[largest], sum(held), caps)
    if total.entries > caps.entries:
        raise _too_many(grants[max(range(len(sizes)), key=lambda index: sizes[index].entries)], caps)
    return total


def human(size: int) -> str:
    """Bytes for people: ``3.2 GiB``."""
    value, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{size} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def _kind(grant: ShippedGrant) -> str:
    return "read-write" if grant.writable else "read-only"


def _too_large(grant: ShippedGrant, held: int, total: int, caps: Caps) -> PolicyRefused:
    together = "" if held == total else f", of {human(total)} in all {_kind(grant)} grants"
    return PolicyRefused(
        Problem(
            "grant_too_large",
            grant.pointer,
            f"{grant.path!r} holds {human(held)}{together}; a virtual machine is handed at most"
            f" {human(caps.content_bytes)} of {_kind(grant)} files",
            fix="grant only the directories that are needed (find the large ones:"
            f" du -xm {_quoted(grant.path)} | sort -n | tail), or choose containment bubblewrap,"
            " which copies nothing",
        )
    )


def _too_many(grant: ShippedGrant, caps: Caps) -> PolicyRefused:
    return PolicyRefused(
        Problem(
            "grant_too_many_files",
            grant.pointer,
            f"{grant.path!r} brings the {_kind(grant)} grants to more than {caps.entries} files; a virtual"
            " machine is handed no more",
            fix="grant only the directories that are needed (find the full ones:"
            f" du -x --inodes {_quoted(grant.path)} | sort -n | tail), or choose containment bubblewrap",
        )
    )


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "'\\''") + "'"
