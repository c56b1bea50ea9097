"""The images of containers on this host, as they are listed, verified and removed."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from backends.errors import BackendUnavailable, ConfigError, PrepFailed, Problem
from backends.frozen import replace
from vm_images.oci.references import DIGEST, parse_reference
from vm_images.oci.store import (
    DIGESTS,
    UNNAMED,
    as_file,
    as_reference,
    container_stores,
    find_container,
    own_container_store,
    read_container,
)
from vm_images.oci.unpack import clear
from vm_images.store import NAMES, Stored, is_key, key_of_name, stored
from vm_images.store_changes import collect, remove_key, remove_name

__all__ = ["collect_garbage", "everything", "is_known", "named_in_store", "remove"]

_KEPT_S = 7 * 86_400


def everything() -> tuple[list[Stored], list[BackendUnavailable]]:
    """As `vm_images.inventory.everything`; the names are references."""
    images: list[Stored] = []
    broken: list[BackendUnavailable] = []
    for store, owner in container_stores():
        for entry in stored(store, owner, read_container):
            if isinstance(entry, BackendUnavailable):
                broken.append(entry)
            else:
                images.append(named_in_store(entry))
    return images, broken


def named_in_store(found: Stored) -> Stored:
    """With the references that lead to it."""
    links = _links(Path(found.store), NAMES)
    names = sorted(as_reference(link.name) for link in links if link.readlink().name == found.key)
    return replace(found, names=tuple(names))


def is_known(text: str) -> bool:
    """Whether it is a reference, digest or key that leads to an image here, whole or not."""
    try:
        find_container(text)
    except ConfigError:
        return False
    except BackendUnavailable as error:
        return error.problems[0].code != "no_image"
    return True


def remove(text: str) -> list[str]:
    """Take a reference away, and the image with its last one; by digest or key, whatever its names.

    Only of the store that is ours to change. Returns the keys of the images that are gone.

    Raises `BackendUnavailable` when there is no such image, `PrepFailed` when it is in use.
    """
    store = Path(own_container_store())
    links = {link.name: link.readlink().name for link in _links(store, NAMES)}
    name, key = _meant(store, text)
    if not key or not ((store / key).exists() or name in links):
        message = f"there is no image {text!r} in {store}"
        raise BackendUnavailable(Problem("no_image", "", message, fix="mxc-ops image list"))
    leading = [link for link, target in links.items() if target == key]
    gone = not name or leading == [name]
    if gone and not remove_key(store, key):
        message = f"the image {text!r} is in use by a virtual machine, or is being imported"
        problem = Problem("image_in_use", "", message, fix="end what runs from it, and try again")
        raise PrepFailed(problem, retryable=True)
    for link in leading if gone else [name]:
        remove_name(store, link)
    return [key] if gone else []


def _meant(store: Path, text: str) -> tuple[str, str]:
    """The name of the store that a text is, "" for a digest or key, and the key that it leads to."""
    if is_key(text):
        return "", text
    if DIGEST.fullmatch(text):
        return "", key_of_name(str(store), text, DIGESTS)
    name = as_file(parse_reference(text))
    return name, key_of_name(str(store), name)


def collect_garbage() -> tuple[list[str], list[str], list[str]]:
    """As `vm_images.inventory.collect_garbage`; digests of images that are gone go too.

    What a run imported from an archive has no name (`importing.import_archive`, ``named=False``). It goes
    once no run has asked for that archive for a week; until then it stays, and is not told as one in use. A
    run that comes later imports the archive again. `remove` takes it away at once.
    """
    store = Path(own_container_store())
    for folder in (NAMES, DIGESTS):
        for link in _links(store, folder):
            if not (store / link.readlink().name).is_dir():
                remove_name(store, link.name, folder)

    def is_kept(key: str) -> bool:
        leading = [*_links(store, NAMES), *filter(_is_recent, _links(store, DIGESTS))]
        return any(_target(link) == key for link in leading)

    answer = collect(store, is_kept, clear)
    for link in _links(store, DIGESTS):
        if link.readlink().name in answer[0]:
            remove_name(store, link.name, DIGESTS)
    return answer


def _is_recent(link: Path) -> bool:
    """Whether it is a run's archive that was asked for within the week."""
    with suppress(FileNotFoundError):
        return link.name.startswith(UNNAMED) and time.time() - link.lstat().st_mtime < _KEPT_S
    return False


def _target(link: Path) -> str:
    with suppress(FileNotFoundError):
        return link.readlink().name
    return ""


def _links(store: Path, folder: str) -> list[Path]:
    """The names of a store. A hidden one is a name in the making, of a process that died."""
    try:
        links = [entry for entry in (store / folder).iterdir() if entry.is_symlink()]
    except FileNotFoundError:
        return []
    return sorted(link for link in links if not link.name.startswith("."))
