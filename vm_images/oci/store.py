"""Where images of containers are kept, and how one is found by its reference, or by a digest.

The store lies beside that of images of machines and has the same rules (`vm_images.store`): ``<key>/`` has
what was made, ``names/`` a link for each reference, and ``digests/`` one for each digest that an image is
known by, and for each archive that one came in. Names keep an image, and for some days what a run imported
from an archive (`UNNAMED`); looking one up never fetches it.
"""

from __future__ import annotations

from pathlib import Path

from backends.container_image import ContainerImage
from backends.errors import BackendUnavailable, Problem
from backends.frozen import frozen
from backends.wslc_settings import DEFAULT_IMAGE
from vm_images import store as family
from vm_images.oci.record import image_of, require_container
from vm_images.oci.references import DIGEST, Reference, parse_reference
from vm_images.store import Stored, is_key, key_of_name

__all__ = [
    "DIGESTS",
    "UNNAMED",
    "StoredContainer",
    "as_file",
    "as_reference",
    "container_image",
    "container_stores",
    "find_container",
    "find_container_image",
    "own_container_store",
    "read_container",
]

DIGESTS = "digests"
UNNAMED = "unnamed:"
"""How links among the digests begin that are for archives which gave their image no name."""
_FOLDER = "containers"
_SLASH = "+"
"""In a file's name, for what no reference has."""


@frozen
class StoredContainer:
    """An image of the store. `reference` is completed, "" for one without a name; `fresh`: made just now."""

    stored: Stored
    reference: str = ""
    fresh: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken out of it when it was made, in sentences."""
        return tuple(self.stored.manifest["notes"])


def container_stores() -> tuple[tuple[str, int], ...]:
    """As `vm_images.store.stores`."""
    return tuple((_beside(store), owner) for store, owner in family.stores())


def own_container_store() -> str:
    """As `vm_images.store.own_store`."""
    return _beside(family.own_store())


def _beside(store: str) -> str:
    return f"{store.rpartition('/')[0]}/{_FOLDER}"


def find_container_image(reference: str = DEFAULT_IMAGE, path: str = "") -> ContainerImage:
    """The image that a reference leads to, for a backend.

    Parameters
    ----------
    reference: see `find_container`.
    path: where it stands, for errors: a JSON pointer.

    Raises `ConfigError` for what is no reference, `BackendUnavailable` where there is none, or no safe one.
    """
    return container_image(find_container(reference, path))


def container_image(found: StoredContainer) -> ContainerImage:
    """As a backend is given it."""
    return image_of(found.stored, found.reference)


def find_container(text: str, path: str = "") -> StoredContainer:
    """An image by its reference, by ``sha256:…`` of its manifest, index or config, or by its key.

    A digest tells the content: whose name stands before it does not matter.

    Raises as `find_container_image`.
    """
    known = is_key(text) or DIGEST.fullmatch(text)
    reference = None if known else parse_reference(text, path)
    for store, owner in container_stores():
        key = text if is_key(text) else ""
        if not key and reference is not None:
            key = key_of_name(store, as_file(reference))
        if not key:
            key = key_of_name(store, text if reference is None else reference.digest, DIGESTS)
        if key and Path(store, key).exists():
            return StoredContainer(read_container(store, key, owner), text if known else str(reference))
    message = f"there is no image {text!r} on this host, and none is fetched when something is run"
    fix = f"mxc-ops image list, or import it: mxc-ops image import FILE --name {text}"
    if reference is not None:
        fix = f"mxc-ops image pull {text}, or mxc-ops image import FILE --name {text}"
    raise BackendUnavailable(Problem("no_image", path, message, fix=fix))


def read_container(store: str, key: str, owner: int) -> Stored:
    """As `vm_images.store.read_image`."""
    return family.read_stored(store, key, owner, require_container)


def as_file(reference: Reference) -> str:
    """What its name is called in the store."""
    return str(reference).replace("/", _SLASH)


def as_reference(file: str) -> str:
    """The reference that a name of the store is for."""
    return file.replace(_SLASH, "/")
