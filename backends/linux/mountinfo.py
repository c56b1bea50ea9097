"""The mount table of our namespace: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["KERNEL_INTERFACES", "Mount", "mount_id", "parse_mountinfo", "read_mountinfo"]

# fmt: off
KERNEL_INTERFACES = frozenset((
    "proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs",
    "configfs", "bpf", "efivarfs", "pstore", "mqueue", "binfmt_misc", "fusectl", "selinuxfs", "smackfs",
    "binder", "rpc_pipefs", "nfsd",
))
# fmt: on
"""File systems that are windows into the kernel, not storage."""


class Mount(NamedTuple):
    """One mount: the directory (or file) `root` of the file system `device` (major:minor) seen at `point`."""

    mount_id: int
    device: str
    root: str
    point: str
    filesystem: str


def read_mountinfo() -> list[Mount]:
    with open("/proc/self/mountinfo", "rb") as table:
        return parse_mountinfo(os.fsdecode(table.read()))


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse the table; `text` comes from `os.fsdecode`, so that any path survives."""
    mounts: list[Mount] = []
    for line in text.split("\n")[:-1]:  # splitlines() would cut names with U+2028
        fields = line.split(" ")
        kind = fields[fields.index("-", 6) + 1]
        mounts.append(Mount(int(fields[0]), fields[2], _plain(fields[3]), _plain(fields[4]), kind))
    return mounts


def _plain(field: str) -> str:
    """Undo the octal escapes of blank, tab, newline, backslash (and ``#``)."""
    if "\\" not in field:
        return field
    first, *rest = field.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def mount_id(descriptor: int) -> int:
    """The mount through which `descriptor` was opened."""
    with open(f"/proc/self/fdinfo/{descriptor}", "rb") as info:
        for line in info:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    raise OSError(f"no mnt_id in /proc/self/fdinfo/{descriptor}")
