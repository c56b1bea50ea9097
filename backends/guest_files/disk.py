"""The read-only grants as one erofs disk, written straight from the grants' descriptors.

Our own writer and not mkfs.erofs, because that takes a staged copy of everything, on disk and to be removed
whatever happens, and because it lets a caller without rights give all files one owner only. Here each file is
copied once, into a file without a name, with the owner that it has to have inside.
"""

from __future__ import annotations

import os
import stat

from backends.base import Handles, ObjectKind
from backends.errors import LaunchFailed, Problem
from backends.frozen import frozen
from backends.guest_files import tree
from backends.guest_files.erofs import (
    BLOCK,
    INLINE_MOST,
    MetadataLayout,
    directory_data,
    directory_size,
    inode,
    superblock,
)
from backends.guest_files.image_file import ImageFile
from backends.guest_files.plan import FilesPlan, Made, ShippedGrant
from backends.guest_files.sizes import READ_ONLY_DISK, Caps, check_sizes

__all__ = ["Disk", "build_disk"]

_ROOT = (0, 0)
_KINDS = {ObjectKind.DIRECTORY: stat.S_IFDIR, ObjectKind.FILE: stat.S_IFREG, ObjectKind.OTHER: stat.S_IFLNK}


@frozen
class Disk:
    """`fd` is read-only and the caller's to close; `used_bytes` of it are the image, the rest is a hole."""

    fd: int
    used_bytes: int
    warnings: tuple[str, ...] = ()


def build_disk(plan: FilesPlan, handles: Handles, *, size_bytes: int, caps: Caps = READ_ONLY_DISK) -> Disk:
    """Pack the read-only grants; `<n>` at the top is the grant with that number.

    Owners are mapped (see `ShippedGrant`), set-user-id bits, extended attributes and special files are left
    out, links stay links, and what the workload could not read on the host has no content.

    Parameters
    ----------
    size_bytes: of the disk, mostly a hole: what a restored machine gets is as large as its template's.

    Raises `PolicyRefused` when they hold more than `caps`, `LaunchFailed` when a grant is not the object that
    was checked, or there is no room.
    """
    size = check_sizes(plan.read_only, handles, caps)
    image = ImageFile(size.content_bytes + size.entries * BLOCK, size_bytes)
    try:
        writer = _Writer(image)
        for grant in plan.read_only:
            writer.add(grant, handles)
        used = writer.finish()
        return Disk(image.finish(used.first_block), used.blocks * BLOCK, tuple(writer.warnings))
    except OSError as error:
        if full := image.full(error):
            raise full from error
        raise LaunchFailed(
            Problem("disk_not_built", "", f"the read-only grants could not be packed: {error}")
        ) from error
    finally:
        image.close()


@frozen
class _Finished:
    first_block: bytes
    blocks: int


class _Node:
    __slots__ = ("block", "children", "ids", "inline", "mode", "mtime_ns", "parent", "size")

    def __init__(self, parent: _Node | None, mode: int, ids: tuple[int, int], mtime_ns: int) -> None:
        self.parent = parent or self
        self.mode = mode
        self.ids = ids
        self.mtime_ns = mtime_ns
        self.size = 0
        self.block: int | None = 0
        self.inline = b""
        self.children: dict[bytes, _Node] = {}


class _Writer:
    """File contents are written as they are met; inodes and directories, which need them all, at the end."""

    def __init__(self, image: ImageFile) -> None:
        self._image = image
        self._top = _Node(None, stat.S_IFDIR | 0o700, _ROOT, 0)
        self._nodes = [self._top]
        self.warnings: list[str] = []

    def add(self, grant: ShippedGrant, handles: Handles) -> None:
        withheld = tree.Withheld()
        directories: dict[str, _Node] = {}
        for found in tree.walk(grant, handles, withheld):
            above, _, name = found.path.rpartition("/")
            parent = directories[above] if found.path else self._top
            node = self._node(parent, name or str(grant.number), found.mode, found.status.st_mtime_ns)
            if stat.S_ISDIR(found.mode):
                directories[found.path] = node
            elif stat.S_ISREG(found.mode):
                self._content(grant, found, node, withheld)
            else:
                self._link(node, found)
            node.mode, node.ids = found.mode, tree.inside_ids(grant, found.status)
        for made in grant.made:
            above, _, name = made.path.rpartition("/")
            if above not in directories:  # removed since the grant was checked
                raise tree.object_changed(grant)
            self._made(directories, directories[above], name, made)
        self.warnings += withheld.warnings(grant)

    def finish(self) -> _Finished:
        layout = MetadataLayout()
        names = {id(node): _names(node) for node in self._nodes if stat.S_ISDIR(node.mode)}
        places: dict[int, int] = {}
        for node in self._nodes:
            if stat.S_ISDIR(node.mode):
                node.size = directory_size(names[id(node)])
            if stat.S_ISDIR(node.mode) and node.size <= INLINE_MOST:
                places[id(node)] = layout.place(node.size)
            else:
                places[id(node)] = layout.place(len(node.inline))
        numbers = {key: layout.number(offset) for key, offset in places.items()}
        for node in self._nodes:
            if stat.S_ISDIR(node.mode):
                self._directory(node, names[id(node)], numbers)
        metadata = bytearray(layout.end)
        for serial, node in enumerate(self._nodes, 1):
            links = 2 + sum(stat.S_ISDIR(n.mode) for n in node.children.values()) if node.children else 1
            links = max(links, 2) if stat.S_ISDIR(node.mode) else 1
            head = inode(node.mode, node.ids, node.mtime_ns, node.size, links, serial, node.block)
            place = places[id(node)]
            metadata[place : place + len(head) + len(node.inline)] = head + node.inline
        start = self._image.append(bytes(metadata))
        blocks = self._image.blocks
        return _Finished(superblock(numbers[id(self._top)], len(self._nodes), blocks, start), blocks)

    def _node(self, parent: _Node, name: str, mode: int, mtime_ns: int) -> _Node:
        node = _Node(parent, mode, _ROOT, mtime_ns)
        parent.children[os.fsencode(name)] = node
        self._nodes.append(node)
        return node

    def _content(self, grant: ShippedGrant, found: tree.Found, node: _Node, withheld: tree.Withheld) -> None:
        source = None if found.withheld else tree.open_file(grant, found)
        if source is None:
            return
        try:
            node.size = found.status.st_size
            holes = found.status.st_blocks * 512 < node.size
            node.block, whole = self._image.append_file(source, node.size, holes=holes)
        finally:
            os.close(source)
        if not whole:
            withheld.add(tree.CHANGING, found.path)

    def _link(self, node: _Node, found: tree.Found) -> None:
        try:
            target = os.fsencode(os.readlink(found.name, dir_fd=found.directory))
        except OSError:  # something else by now: a link to nowhere
            target = b"."
        self._set_link(node, target)

    def _set_link(self, node: _Node, target: bytes) -> None:
        node.size = len(target)
        if len(target) <= INLINE_MOST:
            node.inline, node.block = target, None
        else:
            node.block = self._image.append(target)

    def _made(self, directories: dict[str, _Node], parent: _Node, name: str, made: Made) -> None:
        node = self._node(parent, name, _KINDS[made.kind] | made.mode, 0)
        if made.kind is ObjectKind.DIRECTORY:
            directories[made.path] = node
        elif made.target:
            self._set_link(node, os.fsencode(made.target))

    def _directory(self, node: _Node, names: list[bytes], numbers: dict[int, int]) -> None:
        own = {b".": node, b"..": node.parent}
        members = [(name, node.children.get(name) or own[name]) for name in names]
        data = directory_data([(name, numbers[id(member)], member.mode) for name, member in members])
        if len(data) <= INLINE_MOST:
            node.inline, node.block = data, None
        else:
            node.block = self._image.append(data)


def _names(node: _Node) -> list[bytes]:
    return sorted((b".", b"..", *node.children))
