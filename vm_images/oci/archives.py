"""What an archive is, by its content, and the image in it: ``docker save``'s, OCI's, or a root alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from backends.frozen import frozen
from vm_images.oci.bundle import Bundle, Found, Source, assemble
from vm_images.oci.config import ContainerConfig, parse_document, parse_json
from vm_images.oci.confined import View, run_confined
from vm_images.oci.content import Piece, Plain, read_piece
from vm_images.oci.limits import Limits
from vm_images.oci.manifest import Descriptor, descriptors_of, named
from vm_images.oci.raw_folder import bundle_of_folder, raw_folder, require_room
from vm_images.oci.references import Reference, names_something, parse_reference
from vm_images.oci.refusals import BadEntry, shown
from vm_images.oci.tar_reader import TarReader, damaged_is_refused
from vm_images.oci.users_namespace import ImageUsers

__all__ = ["Archive", "bundle_of", "identify"]

_HEX = "[0-9a-f]{64}"
_OF_AN_IMAGE = re.compile(
    r"oci-layout|index\.json|manifest\.json|repositories|config\.json|blobs(?:/sha256)?"
    rf"|blobs/sha256/{_HEX}|(?:sha256:)?{_HEX}(?:\.json|\.tar(?:\.gz)?|/(?:VERSION|json|layer\.tar))?"
)
_LAYOUT, _INDEX, _DOCKER = "oci-layout", "index.json", "manifest.json"
_MAX_MEMBERS = 8192
"""Of an archive of images: some hundred layers, each with three files, of several images."""
_CONVERT_S = 900
_EXPECTED = "what mxc-ops image export or docker save wrote, an OCI archive, or a root file system's tar"


@frozen
class Archive:
    """What was found out about an archive. `members` are empty for a root file system."""

    source: Source
    plain: Plain
    members: Mapping[str, Piece]
    subject: str


def identify(plain: Plain, subject: str) -> Archive:
    """Tell an archive of images from a root file system: it has nothing but what such an archive has.

    Raises `ConfigError` for what is no archive at all.
    """
    members: dict[str, Piece] = {}
    with plain.path.open("rb") as file, damaged_is_refused(subject, "the archive", expected=_EXPECTED):
        reader = TarReader(file)
        while member := reader.next():
            name = member.name.removeprefix("./").rstrip("/")
            if name in ("", "."):
                continue
            if not _OF_AN_IMAGE.fullmatch(name):
                return Archive(Source.ROOTFS, plain, {}, subject)
            if len(members) == _MAX_MEMBERS:
                raise BadEntry("image_too_large", f"it has more than {_MAX_MEMBERS} members")
            if member.isreg():
                if name in members:
                    raise BadEntry("image_entry", f"{shown(name)} stands twice in it")
                members[name] = Piece(plain.path, member.offset_data, member.size)
            elif not (member.isdir() or (member.issym() and name.endswith("/layer.tar"))):
                raise BadEntry("image_entry", f"{shown(name)} is no regular file")
    if {_LAYOUT, _INDEX} <= members.keys():
        return Archive(Source.OCI, plain, members, subject)
    if _DOCKER in members:
        return Archive(Source.DOCKER, plain, members, subject)
    return Archive(Source.ROOTFS, plain, {}, subject)


def bundle_of(
    archive: Archive, wanted: Reference | None, users: ImageUsers, scratch: Path, limits: Limits
) -> tuple[Bundle, Reference | None]:
    """The image in an archive, and what it is called there.

    Parameters
    ----------
    wanted: the one of several; None takes the only one that there is.
    scratch: an empty directory.

    Raises `ConfigError` for an archive that is not as it should be, or has another image.
    """
    with damaged_is_refused(archive.subject, "the archive"):
        if archive.source is Source.OCI:
            return _of_layout(archive, wanted, limits)
        if archive.source is Source.DOCKER:
            return _of_docker(archive, wanted, users, scratch, limits)
    plain = archive.plain
    layers = (Found(Piece(plain.path), plain.digest, plain),)
    return Bundle(Source.ROOTFS, ContainerConfig(layers=(plain.digest,)), layers), wanted


def _of_layout(archive: Archive, wanted: Reference | None, limits: Limits) -> tuple[Bundle, Reference | None]:
    def read(name: str) -> dict[str, Any]:
        content = read_piece(archive.members[name], archive.subject, name, limits.document_bytes)
        return parse_document(content, name, limits.document_bytes)

    def blob(descriptor: Descriptor) -> Piece:
        found = archive.members.get(f"blobs/sha256/{descriptor.hexadecimal}")
        if found is None:
            raise BadEntry("image_blob_missing", f"the blob {descriptor.digest} is not in the archive")
        if found.size != descriptor.size:
            message = f"the blob {descriptor.digest} has {found.size} bytes, and not {descriptor.size}"
            raise BadEntry("image_digest", message)
        return found

    if "imageLayoutVersion" not in read(_LAYOUT):
        raise BadEntry("image_document", f"{_LAYOUT} does not tell a version")
    roots = descriptors_of(read(_INDEX))
    if wanted is not None:
        roots = named(wanted, roots) or roots
    called = {str(parse_reference(name)) for one in roots for name in one.names if names_something(name)}
    bundle = assemble(Source.OCI, roots, blob, limits, archive.subject)
    return bundle, wanted or _only(called)


def _of_docker(
    archive: Archive, wanted: Reference | None, users: ImageUsers, scratch: Path, limits: Limits
) -> tuple[Bundle, Reference | None]:
    """skopeo turns it into a folder of blobs, with a manifest that the archive itself does not have."""
    content = read_piece(archive.members[_DOCKER], archive.subject, _DOCKER, limits.document_bytes)
    images = [_tags(image) for image in _list(parse_json(content, _DOCKER, limits.document_bytes))]
    matching = [place for place, tags in enumerate(images) if wanted is not None and str(wanted) in tags]
    if not matching and len(images) != 1:
        there = ", ".join(shown(tag) for tags in images for tag in tags)
        raise BadEntry("image_ambiguous", f"it has {len(images)} images: {there}")
    place = matching[0] if matching else 0
    folder = raw_folder(scratch, users)
    run_confined(
        [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--quiet",
            f"docker-archive:/archive.tar:@{place}",
            "dir:/raw",
        ],
        users,
        View(
            shown={"/archive.tar": archive.plain.path},
            writable={"/raw": folder},
            file_bytes=limits.archive_bytes,
        ),
        deadline_s=_CONVERT_S,
        # It decompresses layers, and nothing says beforehand what comes out.
        watch=lambda: require_room(folder, (), limits.archive_bytes),
    )
    bundle = bundle_of_folder(Source.DOCKER, folder, limits, archive.subject)
    return bundle, wanted or _only(set(images[place]))


def _list(value: object) -> list[object]:
    if not isinstance(value, list) or not value:
        raise BadEntry("image_document", f"{_DOCKER} is no list of images")
    return cast("list[object]", value)


def _tags(image: object) -> tuple[str, ...]:
    """What an image is called, as references are compared."""
    told = cast("dict[str, object]", image).get("RepoTags") if isinstance(image, dict) else None
    names = cast("list[object]", told) if isinstance(told, list) else []
    return tuple(
        str(parse_reference(name)) for name in names if isinstance(name, str) and names_something(name)
    )


def _only(names: set[str]) -> Reference | None:
    return parse_reference(min(names)) if names else None
