"""What was handed to a guest, path by path: later, what guest and host made of it is compared with this."""

from __future__ import annotations

import os
import stat

from backends.frozen import frozen

__all__ = ["EMPTY", "NOT_OURS", "Host", "Shipped", "Snapshot", "host_state"]

EMPTY = b""
"""Digest of what has no content: directories, links."""


@frozen
class Host:
    """An object of the host as one look at it tells: whether it was changed since shows in any of these."""

    mode: int
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    uid: int = 0

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)


NOT_OURS = Host(0, 0, 0, 0, 0, 0)
"""Stands for what is only made in the guest: no object of the host is ever the same."""


@frozen
class Shipped:
    """One object as it was handed over. `mode` has its type and the permissions shown inside; `digest` is of
    the content of a file, `target` the text of a link. `withheld`: without its content."""

    mode: int
    host: Host
    digest: bytes = EMPTY
    target: str = ""
    withheld: bool = False


class Snapshot:
    """Of one read-write grant: filled while its archive is made. Paths are relative to it, "" is itself."""

    def __init__(self) -> None:
        self.shipped: dict[str, Shipped] = {}
        self.content_bytes = 0
        self.largest_bytes = 0
        self.warnings: list[str] = []


def host_state(status: os.stat_result) -> Host:
    return Host(
        *(status.st_mode, status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns, status.st_uid),
    )
