"""Tar files of anybody's making, header by header: bounded, and broken is never taken for ended."""

from __future__ import annotations

import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from vm_images.oci.refusals import BadEntry, refused, shown

if TYPE_CHECKING:
    from typing import Self

__all__ = ["TarReader", "damaged_is_refused"]

_MAX_EXTENDED = 1 << 16
"""Bytes of a header that tells more of the next entry; each is read into memory, and searched."""
_HEADER_BUDGET = 1 << 18
"""Bytes that all headers of one entry may take."""
_MAX_GLOBAL = 64
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_KINDS = (
    *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
)


class TarReader:
    """The entries of a tar file that is not compressed.

    The constructor and `next` raise `BadEntry` for entries of kinds that nobody takes, and what
    `damaged_is_refused` knows.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._source = _Budgeted(file)
        self._archive = tarfile.open(  # noqa: SIM115 - it has nothing to close: the file is the caller's
            fileobj=cast("IO[bytes]", self._source),
            mode="r:",
            tarinfo=_Header,
            encoding="utf-8",
            errors="surrogateescape",
        )

    @property
    def offset(self) -> int:
        """Where the next header is looked for: after the last `next`, where the entries end."""
        return self._archive.offset

    def next(self) -> tarfile.TarInfo | None:
        """The next entry, None at the end."""
        self._source.left = _HEADER_BUDGET
        member = self._archive.next()
        self._archive.members = []  # type: ignore[attr-defined] # else each stays in memory
        if member is None:
            return None
        sparse = member.issparse() or any(name.startswith("GNU.sparse.") for name in member.pax_headers)
        if member.size < 0 or sparse:
            raise BadEntry("image_entry", f"{shown(member.name)} is sparse: whole files are taken")
        if len(self._archive.pax_headers) > _MAX_GLOBAL:
            raise tarfile.ReadError("global headers tell too much")
        return member


@contextmanager
def damaged_is_refused(source: object, where: str, *, expected: str = "") -> Generator[None]:
    """Tell what goes wrong inside as a refusal of the archive or reference `source`.

    Parameters
    ----------
    where: in it, for people.
    expected: what it should be, where it is no tar file.
    """
    try:
        yield
    except BadEntry as error:
        raise refused(error.code, source, f"{where}: {error}") from error
    except (tarfile.TarError, ValueError, EOFError, RecursionError) as error:
        message = f"{where}: it is no tar file, or damaged: {error}"
        raise refused("image_damaged", source, message, expected=expected) from error


class _Header(tarfile.TarInfo):
    """A header on its own. By default a broken one counts as the archive's end, wherever it stands."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"a header is broken: {error}") from error
        if member.size < 0:
            raise tarfile.ReadError("a size is negative")
        if member.type in _EXTENDED and member.size > _MAX_EXTENDED:
            raise tarfile.ReadError(f"a header takes {member.size} bytes")
        if member.type not in (*_EXTENDED, *_KINDS):
            kind = "sparse" if member.type == tarfile.GNUTYPE_SPARSE else f"of kind {member.type!r}"
            raise BadEntry(
                "image_entry", f"{shown(member.name)} is {kind}: files, directories and links are taken"
            )
        return member


class _Budgeted:
    """A file of which one entry's headers can read only so much."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = _HEADER_BUDGET

    def read(self, size: int = -1) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise tarfile.ReadError(f"the headers of one entry take more than {_HEADER_BUDGET} bytes")
        return self._file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()
