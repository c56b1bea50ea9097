"""The folder that skopeo copies an image to (its transport ``dir:``): every blob as the very bytes it was."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

from vm_images.oci.bundle import Bundle, Source, assemble
from vm_images.oci.config import parse_document
from vm_images.oci.content import Piece, read_piece
from vm_images.oci.limits import Limits
from vm_images.oci.manifest import Descriptor, root_of
from vm_images.oci.refusals import BadEntry
from vm_images.oci.users_namespace import ImageUsers

__all__ = ["bundle_of_folder", "raw_folder", "require_room"]

_MANIFEST = "manifest.json"


def raw_folder(scratch: Path, users: ImageUsers) -> Path:
    """A new folder for a confined skopeo to write to."""
    folder = scratch / "raw"
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(folder, *users.root)
    return folder


def require_room(folder: Path, declared: Sequence[int], spare: int) -> None:
    """See that what is being written is no more than was told, while whoever writes it runs.

    A limit of the system's is the same for each file, and a file that is being written does not tell which
    blob it is to be. But no matter which is which: the largest file is at most the largest blob, the second
    the second, and so on.

    Parameters
    ----------
    declared: the sizes of the blobs, in bytes.
    spare: how many bytes all else together may have.

    Raises `BadEntry` for more.
    """
    sizes = sorted(_sizes(folder), reverse=True)
    allowed = sorted(declared, reverse=True)
    pairs = zip_longest(sizes, allowed, fillvalue=0)
    if sum(max(size - told, 0) for size, told in pairs) > spare:
        message = f"more comes than was told: {sum(sizes)} bytes so far, and it has {sum(declared)}"
        raise BadEntry("image_too_large", message)


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # renamed meanwhile
                yield Path(place, name).lstat().st_size


def bundle_of_folder(
    source: Source, folder: Path, limits: Limits, subject: str, *, known: Sequence[str] = ()
) -> Bundle:
    """What skopeo brought. It ends before this is read, and it is not believed.

    Parameters
    ----------
    known: further digests of the image.

    Raises `BadEntry`.
    """
    manifest = _regular(folder / _MANIFEST)
    text = read_piece(manifest, subject, "the manifest", limits.document_bytes)
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"

    def blob(wanted: Descriptor) -> Piece:
        return manifest if wanted.digest == digest else _regular(folder / wanted.hexadecimal)

    document = parse_document(text, "the manifest", limits.document_bytes)
    return assemble(source, root_of(document, digest, len(text)), blob, limits, subject, known=known)


def _regular(path: Path) -> Piece:
    """No link: what leads elsewhere would be read with our rights."""
    try:
        status = path.lstat()
    except FileNotFoundError as error:
        raise BadEntry("image_blob_missing", f"the blob {path.name} is missing") from error
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise BadEntry("image_blob_missing", f"the blob {path.name} is no file of its own")
    return Piece(path, size=status.st_size)
