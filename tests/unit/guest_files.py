"""A stand-in for the guest: trees as plain data, and the archives that an agent would make of them."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backends.base import Access, FilesystemView, Grant
from backends.guest_files.archive import archive
from backends.guest_files.copy_back import CopyBack, copy_back
from backends.guest_files.plan import FilesPlan, plan_files
from backends.guest_files.reserved import OWN_PATHS, SYSTEM_PATHS
from backends.guest_files.snapshot import Snapshot
from backends.linux.delegation import calling_user
from backends.linux.objects import OpenObjects, observe_paths
from mxc_ops.policy.filesystem import resolve_filesystem

RO, RW, DENIED = Access.READ_ONLY, Access.READ_WRITE, Access.DENIED
_LISTS = {RO: "readonlyPaths", RW: "readwritePaths", DENIED: "deniedPaths"}

Tree = dict[str, "File | Link | int"]
"""Path below the grant → what is there; a number is a directory's permissions. "" is the top."""


class File:
    def __init__(self, content: bytes, mode: int = 0o644, mtime_ns: int = 1_700_000_000_123_456_789) -> None:
        self.content = content
        self.mode = mode
        self.mtime_ns = mtime_ns

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and (self.content, self.mode) == (other.content, other.mode)

    def __hash__(self) -> int:
        return hash(self.content)

    def __repr__(self) -> str:
        return f"File({self.content[:20]!r}, {self.mode:o})"


class Link(str):
    __slots__ = ()


def view_of(policy: Sequence[tuple[Path, Access]]) -> tuple[FilesystemView, OpenObjects]:
    """The policy, resolved on this host as for a virtual machine."""
    grants = [
        Grant(str(path), access, f"/filesystem/{_LISTS[access]}/{index}")
        for index, (path, access) in enumerate(policy)
    ]
    paths, handles = observe_paths(grants, calling_user(), visible_trees=())
    return resolve_filesystem(paths, (), (*OWN_PATHS, *SYSTEM_PATHS)), handles


def planned(*policy: tuple[Path, Access]) -> tuple[FilesPlan, OpenObjects]:
    view, handles = view_of(policy)
    caller = (os.geteuid(), tuple({os.getgid(), *os.getgroups()}))
    return plan_files(view, device="/dev/vdb", caller=caller), handles


def archive_of(tree: Mapping[str, File | Link | int]) -> bytes:
    """What an agent sends for it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(tree, key=lambda path: path.split("/") if path else []):
            found = tree[path]
            info = tarfile.TarInfo(f"./{path}" if path else ".")
            info.uid = info.gid = 1000
            if isinstance(found, File):
                info.mode, info.size, info.mtime = found.mode, len(found.content), found.mtime_ns // 10**9
                tar.addfile(info, io.BytesIO(found.content))
                continue
            if isinstance(found, Link):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, found, 0o777
            else:
                info.type, info.mode = tarfile.DIRTYPE, found
            tar.addfile(info)
    return target.getvalue()


def unpacked(stream: bytes) -> Tree:
    """What the guest has after a PUT."""
    tree: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        for info in tar.getmembers():
            path = info.name.removeprefix(".").removeprefix("/")
            if info.isdir():
                tree[path] = info.mode
            elif info.issym():
                tree[path] = Link(info.linkname)
            else:
                content = tar.extractfile(info)
                assert content is not None
                tree[path] = File(content.read(), info.mode)
    return tree


def host_tree(top: Path) -> Tree:
    """What the host has now."""
    tree: Tree = {}

    def visit(place: Path, path: str) -> None:
        status = place.lstat()
        if stat.S_ISDIR(status.st_mode):
            tree[path] = stat.S_IMODE(status.st_mode)
            for child in place.iterdir():
                visit(child, f"{path}/{child.name}" if path else child.name)
        elif stat.S_ISLNK(status.st_mode):
            tree[path] = Link(place.readlink())
        elif stat.S_ISREG(status.st_mode):
            tree[path] = File(place.read_bytes(), stat.S_IMODE(status.st_mode))

    visit(top, "")
    return tree


def build(top: Path, tree: Mapping[str, File | Link | int]) -> None:
    for path in sorted(tree, key=lambda path: path.split("/") if path else []):
        found, place = tree[path], top / path if path else top
        if isinstance(found, File):
            place.write_bytes(found.content)
            place.chmod(found.mode)
        elif isinstance(found, Link):
            place.symlink_to(found)
        else:
            place.mkdir(exist_ok=True)
    for path, found in tree.items():
        if isinstance(found, int):
            (top / path if path else top).chmod(found)


class Run:
    """One run on one read-write grant, up to the point where the guest has its copy."""

    def __init__(self, *policy: tuple[Path, Access], journals: Path) -> None:
        self.plan, self.handles = planned(*policy)
        self.grant = self.plan.writable[0]
        self.snapshot = Snapshot()
        self.stream = b"".join(archive(self.grant, self.handles, self.snapshot))
        self.guest = unpacked(self.stream)
        self.journals = journals

    def back(self, stream: bytes | Iterator[bytes] | None = None) -> CopyBack:
        """Copy back what `guest` is by now, or what a hostile one says."""
        sent = archive_of(self.guest) if stream is None else stream
        chunks = (
            iter([sent[at : at + 65536] for at in range(0, len(sent), 65536)])
            if isinstance(sent, bytes)
            else sent
        )
        return copy_back(self.grant, self.snapshot, self.handles, chunks, journals=str(self.journals))
