"""The images of this host, as they are listed, verified and removed."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from backends.errors import BackendUnavailable, PrepFailed, Problem
from backends.lxc import unpacked
from vm_images.store import IMPORTED, MANIFEST, NAMES, Stored, content_of, is_key, own_store, stored, stores
from vm_images.store_changes import collect, remove_key, remove_name

__all__ = ["collect_garbage", "everything", "find", "is_known", "remove", "verify"]

_PIECE = 1 << 20


def everything() -> tuple[list[Stored], list[BackendUnavailable]]:
    """All images that we may use, in the order in which they are found, and what is wrong with others."""
    images: list[Stored] = []
    broken: list[BackendUnavailable] = []
    for store, owner in stores():
        for entry in stored(store, owner):
            if isinstance(entry, BackendUnavailable):
                broken.append(entry)
            else:
                images.append(entry)
    return images, broken


def find(name: str) -> Stored:
    """An image by name or key. Raises `BackendUnavailable` when there is none."""
    images, broken = everything()
    for image in images:
        if name == image.key or name in image.names:
            return image
    message = f"there is no image {name!r} on this host"
    problem = Problem("no_image", "", message, expected=_known(images), fix="mxc-ops image list")
    raise BackendUnavailable([problem, *(problem for error in broken for problem in error.problems)])


def _known(images: list[Stored]) -> str:
    names = sorted({name for image in images for name in image.names})
    return f"one of {', '.join(names)}" if names else ""


def is_known(name: str) -> bool:
    """Whether it is the name or key of an image, whole or not."""
    if "/" in name or not name:
        return False
    return any(
        os.path.lexists(f"{store}/{name if is_key(name) else f'{NAMES}/{name}'}") for store, _ in stores()
    )


def verify(image: Stored) -> list[Problem]:
    """Compare the SHA-256 of each file with what was built; reads everything."""
    fix = f"mxc-ops image remove {image.key}, then build or import it again"
    problems: list[Problem] = []
    for part, entry in image.manifest["parts"].items():
        path = Path(image.folder, part)
        try:
            found = _sha256(path, entry.get("content"))
        except OSError as error:
            problems.append(Problem("image_unreadable", "", f"{path}: {error.strerror}", fix=fix))
            continue
        if found != entry["sha256"]:
            message = f"{path} is not what was built: its SHA-256 is {found}"
            problems.append(Problem("image_spoilt", "", message, expected=entry["sha256"], fix=fix))
    inside = {entry.name for entry in Path(image.folder).iterdir()}
    for extra in sorted(inside - {*image.manifest["parts"], MANIFEST, IMPORTED}):
        message = f"{image.folder}/{extra} does not belong to the image"
        problems.append(Problem("image_spoilt", "", message, fix=fix))
    return problems


def _sha256(path: Path, content: int | None) -> str:
    """In hex; of the first `content` bytes where that is told and nothing but a hole comes after them."""
    with path.open("rb") as file:
        if content is None or _has_data_after(file.fileno(), content):
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while content and (piece := file.read(min(_PIECE, content))):
            digest.update(piece)
            content -= len(piece)
        return digest.hexdigest()


def _has_data_after(fd: int, offset: int) -> bool:
    """Whether a file has anything but a hole from there on."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA) >= 0
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False
    finally:
        os.lseek(fd, 0, os.SEEK_SET)


def remove(name: str) -> list[str]:
    """Take a name away, and the image too when it was the last one; by its key, whatever its names.

    Only of the store that is ours to change. Returns the keys of the images that are gone.

    Raises `BackendUnavailable` when there is no such image, `PrepFailed` when it is in use or not ours.
    """
    store = Path(own_store())
    links = {link.name: link.readlink().name for link in _links(store)}
    key = name if is_key(name) else links.get(name, "")
    if not key or not ((store / key).exists() or name in links):
        other = next((place for place, _ in stores() if place != str(store)), "")
        message = f"there is no image {name!r} in {store}" + (
            f" ({other} is for root to change)" if other else ""
        )
        raise BackendUnavailable(Problem("no_image", "", message, fix="mxc-ops image list"))
    leading = [link for link, target in links.items() if target == key]
    gone = name == key or leading == [name]
    if gone and not remove_key(store, key):
        message = f"the image {name!r} is in use by a virtual machine, or is being built"
        problem = Problem("image_in_use", "", message, fix="end what runs from it, and try again")
        raise PrepFailed(problem, retryable=True)
    for link in leading if gone else [name]:
        remove_name(store, link)
    return [key] if gone else []


def collect_garbage() -> tuple[list[str], list[str], list[str]]:
    """See `store_changes.collect`; of the store that is ours to change. Names that lead nowhere go too.

    So does what a user has unpacked for containers of an image that is nowhere any more.
    """
    store = Path(own_store())
    for link in _links(store):
        if not (store / link.readlink().name).is_dir():
            remove_name(store, link.name)
    removed, used, going_on = collect(
        store, lambda key: any(link.readlink().name == key for link in _links(store))
    )
    if os.geteuid() != 0:
        removed += unpacked.collect([content_of(found) for found in everything()[0]])
    return removed, used, going_on


def _links(store: Path) -> list[Path]:
    """The names of a store. A hidden one is a name in the making, of a process that died."""
    names = store / "names"
    try:
        links = [Path(entry.path) for entry in os.scandir(names) if entry.is_symlink()]
    except FileNotFoundError:
        return []
    return sorted(link for link in links if not link.name.startswith("."))
