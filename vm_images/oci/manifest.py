"""Which manifest an index leads to, and which blobs a manifest names (OCI image specification). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from backends.frozen import frozen
from vm_images.oci.config import ARCHITECTURE, SYSTEM
from vm_images.oci.limits import Limits
from vm_images.oci.references import DIGEST, Reference, names_something, parse_reference
from vm_images.oci.refusals import BadEntry, shown

__all__ = [
    "Descriptor",
    "Manifest",
    "choose",
    "descriptors_of",
    "named",
    "parse_manifest",
    "root_of",
]

_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LAYERS = (
    *(f"application/vnd.oci.image.layer.v1.tar{how}" for how in ("", "+gzip", "+zstd")),
    *(f"application/vnd.docker.image.rootfs.diff.tar{how}" for how in ("", ".gzip", ".zstd")),
)
_CONFIGS = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_MAX_INDEXES = 2
"""One of the layout, and one of the image for its platforms."""
_MAX_SIZE = 1 << 40
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_KIND = "vnd.docker.reference.type"  # what says that it is about another image, and none itself


@frozen
class Descriptor:
    """A blob, by digest (``sha256:…``) and size in bytes; `platform` as OS/ARCHITECTURE, "" for none.

    `names` are those that a layout gives it.
    """

    media_type: str
    digest: str
    size: int
    platform: str = ""
    names: tuple[str, ...] = ()

    @property
    def hexadecimal(self) -> str:
        return self.digest.removeprefix("sha256:")


@frozen
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]


def descriptors_of(index: Mapping[str, Any]) -> list[Descriptor]:
    """What an index leads to: images alone, of our platform or of none that is told. Raises `BadEntry`."""
    entries = _list(index.get("manifests"), "manifests")
    images = [entry for entry in entries if not _is_about(entry)]
    found = [_descriptor(entry, "manifests", (*_INDEXES, *_MANIFESTS)) for entry in images]
    ours = [one for one in found if one.platform in ("", f"{SYSTEM}/{ARCHITECTURE}")]
    if not ours:
        there = ", ".join(sorted({shown(one.platform) for one in found})) or "nothing"
        message = f"it has {there}, and nothing for {SYSTEM}/{ARCHITECTURE}"
        raise BadEntry("image_platform", message)
    return ours


def choose(
    found: Sequence[Descriptor], read: Callable[[Descriptor], Mapping[str, Any]]
) -> tuple[Descriptor, list[str]]:
    """The one manifest that descriptors lead to, and the digests of the indexes on the way.

    Parameters
    ----------
    read: the document of a descriptor.

    Raises `BadEntry` where there are several, or indexes of indexes.
    """
    passed: list[str] = []
    for _ in range(_MAX_INDEXES + 1):
        if len({one.digest for one in found}) != 1:
            there = ", ".join(shown(name) for one in found for name in one.names or (one.digest,))
            raise BadEntry("image_ambiguous", f"it has several images: {there}")
        chosen = found[0]
        if chosen.media_type not in _INDEXES:
            return chosen, passed
        if len(passed) == _MAX_INDEXES - 1:
            break
        passed.append(chosen.digest)
        found = descriptors_of(read(chosen))
    raise BadEntry("image_document", f"its indexes lead to indexes, more than {_MAX_INDEXES} deep")


def named(reference: Reference, found: Sequence[Descriptor]) -> list[Descriptor]:
    """Those that have a name, as references are compared."""
    wanted = str(reference)
    return [
        one
        for one in found
        if any(names_something(text) and str(parse_reference(text)) == wanted for text in one.names)
    ]


def parse_manifest(document: Mapping[str, Any], limits: Limits) -> Manifest:
    """Read a manifest. Raises `BadEntry`."""
    if document.get("schemaVersion") != 2:
        raise BadEntry("image_document", "its manifest is not of schema version 2")
    if document.get("mediaType", _MANIFESTS[0]) not in _MANIFESTS:
        raise BadEntry("image_document", f"its manifest is {shown(str(document.get('mediaType')))}")
    layers = _list(document.get("layers"), "layers")
    if len(layers) > limits.layers:
        raise BadEntry("image_too_large", f"it has {len(layers)} layers, more than {limits.layers}")
    if not layers:
        raise BadEntry("image_document", "it has no layers")
    config = _descriptor(document.get("config"), "config", _CONFIGS)
    found = tuple(_descriptor(layer, "layers", _LAYERS) for layer in layers)
    if sum(layer.size for layer in found) > limits.archive_bytes:
        raise BadEntry("image_too_large", f"its layers have more than {limits.archive_bytes} bytes")
    return Manifest(config, found)


def _descriptor(value: object, place: str, kinds: Sequence[str]) -> Descriptor:
    entry = _object(value, place)
    kind, digest, size = entry.get("mediaType"), entry.get("digest"), entry.get("size")
    if kind not in kinds:
        raise BadEntry("image_document", f"{place} has {shown(str(kind))}, which is not taken")
    if entry.get("urls"):
        raise BadEntry("image_document", f"{place} has blobs that lie elsewhere")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise BadEntry("image_document", f"{place} has {shown(str(digest))}, which is no SHA-256")
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        raise BadEntry("image_document", f"{place} has a size of {shown(str(size))}")
    platform = _object(entry.get("platform") or {}, f"{place}.platform")
    told = f"{platform.get('os')}/{platform.get('architecture')}" if platform else ""
    notes = _object(entry.get("annotations") or {}, f"{place}.annotations")
    names = [notes[name] for name in _NAMES if isinstance(notes.get(name), str)]
    return Descriptor(str(kind), digest, size, told, tuple(names))


def _is_about(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    notes: object = cast("dict[str, object]", entry).get("annotations")
    return isinstance(notes, dict) and _KIND in notes


def root_of(document: Mapping[str, Any], digest: str, size: int) -> list[Descriptor]:
    """What a registry answers to a reference, as `choose` wants it. Raises `BadEntry`."""
    kinds = (*_INDEXES, *_MANIFESTS)
    kind = document.get("mediaType", _INDEXES[0] if "manifests" in document else _MANIFESTS[0])
    return [_descriptor({"mediaType": kind, "digest": digest, "size": size}, "the answer", kinds)]


def _list(value: object, place: str) -> list[object]:
    if not isinstance(value, list):
        raise BadEntry("image_document", f"{place} is no list")
    return cast("list[object]", value)


def _object(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadEntry("image_document", f"{place} is no object")
    return cast("dict[str, Any]", value)
