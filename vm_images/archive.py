"""One file that holds an image, for hosts that cannot build it: written, and taken in again with suspicion.

A tar archive, compressed by gzip without a time: ``mxc-image.json`` (the image's name and its manifest), then
the manifest's parts in its order. Nothing else may be in it. What comes in is written under names of our
own, in a place of our own, and never larger than its manifest says.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from backends.errors import BackendUnavailable, ConfigError, PrepFailed, Problem
from vm_images.archive_index import misshapen
from vm_images.inventory import find, verify
from vm_images.plan import key_of
from vm_images.rootfs import EPOCH
from vm_images.store import IMPORTED, MANIFEST, NAMES, Stored, lock_folder, own_store, read_image
from vm_images.store_changes import publish, set_name, workplace, writing

if TYPE_CHECKING:
    from typing import Self

__all__ = ["NAME", "export_image", "image_key", "import_image", "is_exported"]

_INDEX = "mxc-image.json"
_MAX_INDEX = 1 << 22
_CHUNK = 1 << 20
_LEVEL = 6
_EXPECTED = "a file that mxc-ops image export wrote"
_ABOUT_THE_NEXT = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.GNUTYPE_SPARSE),
)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What an image may be called."""


def export_image(name: str, target: Path) -> int:
    """Write an image into a new file; returns its size in bytes.

    Raises `BackendUnavailable` without such an image, `PrepFailed` when it is broken or the file exists or
    cannot be written.
    """
    image = find(name)
    if wrong := verify(image):
        raise PrepFailed(wrong)
    index = json.dumps({"name": _name_of(image, name), "manifest": image.manifest}, sort_keys=True).encode()
    created = False
    try:
        with lock_folder(image.folder, name), target.open("xb") as file:
            created = True
            with (
                gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as archive,
            ):
                archive.addfile(_member(_INDEX, len(index)), io.BytesIO(index))
                for part, entry in image.manifest["parts"].items():
                    with Path(image.folder, part).open("rb") as content:
                        archive.addfile(_member(part, entry["size"]), content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        if created:
            target.unlink(missing_ok=True)
        if isinstance(error, OSError):
            message = f"{target} cannot be written: {error.strerror}"
            fix = f"name a file that does not exist yet, on a disk with room: df -h {target.parent}"
            raise PrepFailed(Problem("cannot_write", str(target), message, fix=fix)) from error
        raise
    return target.stat().st_size


def _name_of(image: Stored, asked: str) -> str:
    return asked if asked in image.names else next(iter(image.names), image.key[:12])


def _member(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = size, EPOCH
    return entry


def is_exported(source: Path) -> bool:
    """Whether a file begins as those do that `export_image` writes; False, too, where it cannot be read."""
    try:
        with source.open("rb") as file, gzip.GzipFile(fileobj=file) as packed:
            return packed.read(tarfile.BLOCKSIZE).startswith(f"{_INDEX}\0".encode())
    except (OSError, EOFError, zlib.error):
        return False


def import_image(source: Path, name: str = "", *, into: str = "") -> tuple[str, Stored]:
    """Take an image out of an archive into our store; returns its name and what is there now.

    Parameters
    ----------
    name: by default the one it had where it was exported, unless another image has that here.
    into: the store; by default the system's for root, else the user's own.

    Raises `ConfigError` for a file that is no such archive, or in which anything is not as it says, and
    `PrepFailed` when the store cannot be written. The store is then as before.
    """
    store = Path(into or own_store())
    with _opened(source) as archive:
        title, manifest = _index(archive, source)
        title = name or title
        if not NAME.fullmatch(title):
            raise _refused("--name" if name else source, f"{title[:80]!r} cannot be an image's name")
        key = manifest["key"]
        there = store / NAMES / title
        if not name and there.is_symlink() and there.readlink().name != key:
            fix = f"mxc-ops image import {source} --name {title}-2, or --name {title} to take its place"
            message = f"another image is called {title!r} here"
            raise ConfigError(Problem("image_name_taken", str(source), message, fix=fix))
        with workplace(store, key) as place:
            for part, entry in manifest["parts"].items():
                _take(archive, part, entry, place / part, source)
            if archive.next() is not None:
                raise _refused(source, "something follows the image's last part")
            with writing(store):
                (place / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
                (place / IMPORTED).touch()
            if not _is_whole(store, key):
                publish(place, store, key)
            set_name(store, title, key)
    return title, read_image(str(store), key, os.geteuid())


def _is_whole(store: Path, key: str) -> bool:
    """Whether the image is there already: something may run from it, so it must not be replaced."""
    try:
        return not verify(read_image(str(store), key, os.geteuid()))
    except BackendUnavailable:
        return False


def image_key(source: Path) -> str:
    """The key of the image in an archive, of which only the beginning is read. Raises `ConfigError`."""
    with _opened(source) as archive:
        return _index(archive, source)[1]["key"]


class _Header(tarfile.TarInfo):
    """A member's own header: what says more of the next member is read into memory, however long it is."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _ABOUT_THE_NEXT or member.size < 0:
            raise tarfile.ReadError(f"{member.name[:80]!r} is no member of an image")
        return member


@contextmanager
def _opened(source: Path) -> Generator[tarfile.TarFile]:
    """Whatever is wrong inside becomes one error. The archive is read once, from front to end."""
    try:
        with (
            source.open("rb") as file,
            gzip.GzipFile(fileobj=file) as packed,
            tarfile.open(fileobj=cast("IO[bytes]", packed), mode="r|", tarinfo=_Header) as archive,
        ):
            yield archive
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise _refused(source, f"it cannot be read: {getattr(error, 'strerror', '') or error}") from error


def _index(archive: tarfile.TarFile, source: Path) -> tuple[str, dict[str, Any]]:
    content = archive.extractfile(_next(archive, _INDEX, _MAX_INDEX, source))
    assert content is not None
    try:
        found = json.loads(content.read(_MAX_INDEX))
    except (ValueError, RecursionError) as error:
        raise _refused(source, f"{_INDEX} is no JSON document") from error
    if wrong := misshapen(found):
        raise _refused(source, f"{_INDEX}: {wrong} is not as it should be")
    manifest = found["manifest"]
    if key_of(manifest["inputs"]) != manifest["key"]:
        raise _refused(source, "its key does not belong to what it says to be made of")
    roots = [part for part in manifest["parts"] if part.startswith("rootfs.")]
    kind = manifest["format"]
    if roots != ([] if kind == "none" else [f"rootfs.{kind}"]):
        raise _refused(source, "its parts are not those of an image")
    made_of = manifest["inputs"]
    for name in ("commandLine", "format", "memoryMib", "warmUp", "zygote"):
        if made_of.get(name) != manifest[name]:
            raise _refused(source, f"{_INDEX}: {name} contradicts what the image is made of")
    return found["name"], manifest


def _next(archive: tarfile.TarFile, name: str, at_most: int, source: Path) -> tarfile.TarInfo:
    member = archive.next()
    if member is None:
        raise _refused(source, f"it ends before {name}")
    if member.name != name or member.type != tarfile.REGTYPE or member.sparse is not None:
        raise _refused(source, f"{member.name[:80]!r} stands where {name} should")
    if member.size > at_most:
        raise _refused(source, f"{name} has {member.size} bytes, more than {at_most}")
    return member


def _take(archive: tarfile.TarFile, part: str, entry: Mapping[str, Any], target: Path, source: Path) -> None:
    member = _next(archive, part, entry["size"], source)
    content = archive.extractfile(member)
    assert content is not None
    seen = hashlib.sha256()
    store = target.parent.parent
    with writing(store):
        target.touch(exist_ok=False)
    while chunk := content.read(_CHUNK):
        seen.update(chunk)
        with writing(store), target.open("ab") as file:
            file.write(chunk)
    if member.size != entry["size"] or seen.hexdigest() != entry["sha256"]:
        raise _refused(source, f"{part} is not what was exported: size or SHA-256 differs")


def _refused(source: Path | str, message: str) -> ConfigError:
    fix = "export it once more: mxc-ops image export NAME FILE"
    return ConfigError(Problem("bad_image_archive", str(source), message, expected=_EXPECTED, fix=fix))
