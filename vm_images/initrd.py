"""The initrd: agent, kernel modules, and for the smallest image busybox. Pure.

An archive of cpio's "newc" kind (Linux: Documentation/driver-api/early-userspace/buffer-format.rst), not
compressed: unpacking would cost the guest more than reading does (lab §1). Sorted, without times or owners.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Mapping, Sequence

from backends.frozen import frozen
from vm_images.recipe import Format, OwnFile

__all__ = ["Entry", "cpio", "initrd_entries"]

ZYGOTE = ("/usr/bin/python3", "/usr/lib/mxc-ops/zygote.py")
PRELOADED = "/usr/lib/mxc-ops/preloaded.py"
_DIRECTORIES = ("bin", "dev", "etc", "m", "mnt", "proc", "root", "run", "sys", "tmp", "usr")
_CONSOLE = (5, 1)


@frozen
class Entry:
    """One thing in the archive: its path without a leading slash, type and permissions, content or target."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def initrd_entries(
    *,
    agent: bytes,
    modules: Iterable[tuple[str, bytes]],
    format: Format,
    zygote: bool = False,
    busybox: bytes = b"",
    applets: Sequence[str] = (),
    files: Iterable[OwnFile] = (),
    etc: Mapping[str, str] | None = None,
) -> tuple[Entry, ...]:
    """What the agent expects around it.

    Parameters
    ----------
    modules: (file name, content), in the order in which they are to be loaded.
    format: of the root file system, which the agent mounts.
    busybox, applets: the program and the names it goes by.
    etc: further small files, by absolute path.
    """
    loaded = list(modules)
    configuration = f"root {format.value}\n" + (f"zygote {' '.join(ZYGOTE)}\n" if zygote else "")
    entries = [
        *(Entry(path, stat.S_IFDIR | 0o755) for path in _DIRECTORIES if path != "tmp"),
        Entry("tmp", stat.S_IFDIR | 0o1777),
        Entry("dev/console", stat.S_IFCHR | 0o600, device=_CONSOLE),
        Entry("init", stat.S_IFREG | 0o755, agent),
        Entry("agent.conf", stat.S_IFREG | 0o644, configuration.encode()),
        Entry("modules", stat.S_IFREG | 0o644, "".join(f"/m/{name}\n" for name, _ in loaded).encode()),
        *(Entry(f"m/{name}", stat.S_IFREG | 0o644, content) for name, content in loaded),
        *(Entry(path[1:], stat.S_IFREG | 0o644, text.encode()) for path, text in (etc or {}).items()),
    ]
    if busybox:
        entries.append(Entry("bin/busybox", stat.S_IFREG | 0o755, busybox))
        entries += [
            Entry(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox") for name in applets if name != "busybox"
        ]
    entries += [Entry(file.path[1:], stat.S_IFREG | file.mode, file.content) for file in files]
    return _with_parents(entries)


def _with_parents(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Sorted, the later of two with one path, and every directory that something lies in."""
    found: dict[str, Entry] = {}
    for entry in entries:
        parts = entry.path.split("/")
        for end in range(1, len(parts)):
            parent = "/".join(parts[:end])
            found.setdefault(parent, Entry(parent, stat.S_IFDIR | 0o755))
        found[entry.path] = entry
    return tuple(found[path] for path in sorted(found, key=lambda path: path.split("/")))


def cpio(entries: Iterable[Entry]) -> bytes:
    """The archive's bytes: the same for the same entries."""
    archive = bytearray()
    for number, entry in enumerate((*entries, Entry("TRAILER!!!", 0)), start=1):
        name = entry.path.encode() + b"\0"
        inode = number if entry.mode else 0
        fields = (
            *(inode, entry.mode, 0, 0, 1, 0, len(entry.content)),
            *(0, 0, *entry.device, len(name), 0),
        )
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + entry.content
        archive += bytes(-len(archive) % 4)
    return bytes(archive + bytes(-len(archive) % 512))
