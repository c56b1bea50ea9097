"""A layer, entry by entry: checked, what nobody here may have taken out, and written anew.

Whatever unpacks it afterwards reads a tar file that we have written, with names that we have resolved, so it
cannot understand another thing by it than we did.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from pathlib import Path
from typing import IO

from backends.frozen import frozen
from vm_images.oci.defused import Defused, Reason
from vm_images.oci.layer_writer import LayerWriter
from vm_images.oci.limits import MAX_ID, MAX_PATH, Limits
from vm_images.oci.refusals import BadEntry, shown
from vm_images.oci.tar_reader import TarReader, damaged_is_refused
from vm_images.oci.tree_model import HIDING, Kind, Node, Placed, Tree, split

__all__ = ["Checking", "Layer", "rewrite_layer"]

_CHUNK = 1 << 20
_SET_ID = 0o6000
_HIDES_ALL = f"{HIDING}{HIDING}.opq"
_BLOCK = tarfile.BLOCKSIZE
_ATTRIBUTE = re.compile(r"(?:SCHILY\.(?:xattr\.|acl\.)|LIBARCHIVE\.xattr\.|RHT\.security\.)(.*)", re.DOTALL)


@frozen
class Layer:
    """Which one it is, from 1 on, for messages; `is_image`: it is one of an image's, else a plain tar file.

    Only an image's layer can take something away from those below, and only a plain file says by its own end
    that it is whole: a layer's digest says that.
    """

    number: int
    count: int
    is_image: bool

    def __str__(self) -> str:
        return f"layer {self.number} of {self.count}" if self.is_image else "the archive"


class Checking:
    """What the layers of one image have in common.

    Parameters
    ----------
    source: the archive or reference, for errors.
    keep_set_id: whether set-uid and set-gid bits stay.

    `entries` are those so far, and `left` bytes that may still be written, of all layers together.
    """

    def __init__(self, source: object, limits: Limits, *, keep_set_id: bool) -> None:
        self.source = source
        self.limits = limits
        self.keep_set_id = keep_set_id
        self.tree = Tree(limits)
        self.defused = Defused()
        self.entries = 0
        self.left = limits.unpacked_bytes

    def count(self, entries: int) -> None:
        """Take entries into account, those that we make, too: each costs as much as one that is told.

        Raises `BadEntry` where they are too many.
        """
        self.entries += entries
        if self.entries > self.limits.entries:
            raise BadEntry("image_too_large", f"the image has more than {self.limits.entries} entries")


def rewrite_layer(plain: Path, target: Path, layer: Layer, checking: Checking) -> str:
    """Write a layer anew into `target`; returns the SHA-256, in hex, of what was written.

    Parameters
    ----------
    plain: a tar file, not compressed, that nobody else can change.

    Raises `ConfigError` that names the entry for everything that is refused.
    """
    with plain.open("rb") as file, target.open("xb") as written:
        writer = LayerWriter(written, checking.left)
        with damaged_is_refused(checking.source, f"{layer}: at its beginning"):
            if layer.number == 1:
                writer.root()
            reader = TarReader(file)
        while True:
            with damaged_is_refused(checking.source, f"{layer}: after entry {checking.entries} of the image"):
                member = reader.next()
            if member is None:
                break
            with damaged_is_refused(checking.source, f"{layer}: {shown(member.name)}"):
                _take(member, file, writer, layer, checking)
        with damaged_is_refused(checking.source, f"{layer}: at its end"):
            _require_end(file, reader.offset, layer)
            writer.end()
    checking.left = writer.left
    with target.open("rb") as written:
        return hashlib.file_digest(written, "sha256").hexdigest()


def _take(
    member: tarfile.TarInfo, file: IO[bytes], writer: LayerWriter, layer: Layer, checking: Checking
) -> None:
    checking.count(1)
    if member.name.rstrip("/").rpartition("/")[2].startswith(HIDING):
        _hide(member, writer, layer, checking)
        return
    if not (0 <= member.uid <= MAX_ID and 0 <= member.gid <= MAX_ID):
        message = f"it belongs to {member.uid}:{member.gid}, and the greatest id that is mapped is {MAX_ID}"
        raise BadEntry("image_owner", message)
    if member.ischr() or member.isblk() or member.isfifo():
        split(member.name, checking.limits)
        checking.defused.note(Reason.FIFO if member.isfifo() else Reason.DEVICE, layer.number, member.name)
        return
    _note_attributes(member, layer, checking.defused)
    if member.islnk():
        placed, target, node = checking.tree.hard_link(member.name, member.linkname, layer.number)
        _place(placed, member, writer, layer, checking)
        if node.kind is Kind.LINK:
            writer.link(placed.path, node.target, member, tarfile.SYMTYPE)
        else:
            writer.link(placed.path, target, member, tarfile.LNKTYPE)
        return
    mode = _mode(member, layer, checking)
    node = _node(member, layer, mode)
    placed = checking.tree.put(member.name, node)
    _place(placed, member, writer, layer, checking)
    if member.isdir():
        writer.folder(placed.path, mode, member)
    elif member.issym():
        writer.link(placed.path, member.linkname, member, tarfile.SYMTYPE)
    else:
        node.content = (layer.number, writer.file(placed.path, mode, member, file), member.size)


def _node(member: tarfile.TarInfo, layer: Layer, mode: int) -> Node:
    if member.isdir():
        return Node(Kind.DIRECTORY, layer.number)
    if not member.issym():
        return Node(Kind.FILE, layer.number, mode=mode)
    size = len(member.linkname.encode("utf-8", "surrogateescape"))
    if not 0 < size <= MAX_PATH or "\0" in member.linkname:
        raise BadEntry("image_entry", f"what the link leads to is no path: {shown(member.linkname)}")
    return Node(Kind.LINK, layer.number, target=member.linkname)


def _mode(member: tarfile.TarInfo, layer: Layer, checking: Checking) -> int:
    plain = member.mode & (0o1777 if member.isdir() else 0o777)
    set_id = 0 if member.issym() else member.mode & _SET_ID
    if set_id and not checking.keep_set_id:
        checking.defused.note(Reason.SET_ID, layer.number, member.name)
        return plain
    return plain | set_id


def _note_attributes(member: tarfile.TarInfo, layer: Layer, defused: Defused) -> None:
    for name in member.pax_headers:
        if found := _ATTRIBUTE.fullmatch(name):
            is_capability = found[1] == "security.capability"
            reason = Reason.CAPABILITY if is_capability else Reason.ATTRIBUTE
            defused.note(reason, layer.number, member.name)


def _place(
    placed: Placed, member: tarfile.TarInfo, writer: LayerWriter, layer: Layer, checking: Checking
) -> None:
    """All that comes before the entry itself."""
    if placed.repeated:
        checking.defused.note(Reason.REPEATED, layer.number, member.name)
    checking.count(len(placed.made))
    writer.above(placed, member)


def _hide(member: tarfile.TarInfo, writer: LayerWriter, layer: Layer, checking: Checking) -> None:
    """A whiteout: an empty file whose name says what of the layers below is gone.

    In a root file system it is a name like any other, but what unpacks that would take it for a whiteout.
    """
    parts = split(member.name, checking.limits, hides=True)
    above, name = "/".join(parts[:-1]), parts[-1]
    if not layer.is_image:
        raise BadEntry("image_whiteout", f"names that begin with {HIDING} are those of an image's layers")
    if not member.isreg():
        raise BadEntry("image_whiteout", "it hides something, and is no empty file")
    if name == _HIDES_ALL:
        if not parts[:-1]:
            raise BadEntry("image_whiteout", "it hides the whole image below")
        if path := checking.tree.hide_all(above, layer.number):
            writer.marker(f"{path}/{_HIDES_ALL}")
        return
    hidden = name.removeprefix(HIDING)
    if hidden in ("", ".", "..") or hidden.startswith(HIDING):
        raise BadEntry("image_whiteout", f"it would hide {shown(hidden)}, which is no file's name")
    if path := checking.tree.hide(above, hidden, layer.number):
        writer.marker(name if path == "." else f"{path}/{name}")


def _require_end(file: IO[bytes], end: int, layer: Layer) -> None:
    """Nothing follows; that a plain file is whole is told by blocks of zeros."""
    file.seek(end)
    rest = 0
    while chunk := file.read(_CHUNK):
        if chunk.count(0) != len(chunk):
            raise BadEntry("image_damaged", "something follows the archive's end")
        rest += len(chunk)
    if not layer.is_image and rest < 2 * _BLOCK:
        raise BadEntry(
            "image_damaged", "it is cut off: the two blocks of zeros that end a tar file are missing"
        )
