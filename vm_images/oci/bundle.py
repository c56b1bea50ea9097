"""An image as it arrived, whatever it arrived in: its config, and where its layers lie."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from backends.frozen import frozen
from vm_images.oci.config import ContainerConfig, parse_config, parse_document
from vm_images.oci.content import Piece, Plain, read_piece
from vm_images.oci.limits import Limits
from vm_images.oci.manifest import Descriptor, choose, parse_manifest
from vm_images.oci.refusals import BadEntry

__all__ = ["Bundle", "Found", "Source", "assemble"]


class Source(Enum):
    """What images come in, as an image's record has it."""

    ROOTFS = "root file system"
    DOCKER = "docker archive"
    OCI = "OCI archive"
    REGISTRY = "registry"


@frozen
class Found:
    """A layer's blob: where it lies, and the digest that it must have. `plain`: it is unpacked already."""

    piece: Piece
    digest: str
    plain: Plain | None = None


@frozen
class Bundle:
    """`digest` is the manifest's, `config_digest` the config's; both are "" where there are none.

    `digests` are all that the image may be asked for by, those of indexes, too.
    """

    source: Source
    config: ContainerConfig
    layers: tuple[Found, ...]
    digest: str = ""
    config_digest: str = ""
    digests: tuple[str, ...] = ()


def assemble(
    source: Source,
    roots: Sequence[Descriptor],
    blob: Callable[[Descriptor], Piece],
    limits: Limits,
    subject: str,
    *,
    known: Sequence[str] = (),
) -> Bundle:
    """Follow descriptors to the one image that they lead to.

    Parameters
    ----------
    blob: where the blob of a descriptor lies. Raises `BadEntry` where it is missing.
    subject: the archive or reference, for errors.
    known: further digests of the image.

    Raises `BadEntry` where anything is not as it should be. The layers themselves are not looked at yet.
    """

    def read(wanted: Descriptor, what: str) -> bytes:
        content = read_piece(blob(wanted), subject, what, limits.document_bytes)
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != wanted.digest or len(content) != wanted.size:
            raise BadEntry("image_digest", f"{what} is not what {wanted.digest} says: its content differs")
        return content

    def index(wanted: Descriptor) -> Mapping[str, Any]:
        return parse_document(read(wanted, "an index"), "an index", limits.document_bytes)

    chosen, passed = choose(roots, index)
    text = read(chosen, "the manifest")
    manifest = parse_manifest(parse_document(text, "the manifest", limits.document_bytes), limits)
    config = parse_config(read(manifest.config, "the config"), limits.document_bytes)
    if len(config.layers) != len(manifest.layers):
        message = f"its config tells {len(config.layers)} layers, its manifest {len(manifest.layers)}"
        raise BadEntry("image_digest", message)
    layers = [Found(blob(layer), layer.digest) for layer in manifest.layers]
    digests = (chosen.digest, manifest.config.digest, *passed, *known)
    return Bundle(source, config, tuple(layers), chosen.digest, manifest.config.digest, digests)
