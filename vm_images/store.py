"""Where images are kept, and how one is found by its name.

A store is a directory of ``<key>/{image.json, vmlinux, initrd, rootfs.…}`` and ``names/<name>``, links to the
keys. The system's is root's and serves everybody; a user has one more of their own, asked second, which root
never takes images from. An image is put there whole, by a rename, and never changed. This file is on the path
of each run of a virtual machine: it looks at owners and sizes, and reads no image.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

from backends.digest import sha256
from backends.errors import BackendUnavailable, Problem
from backends.frozen import frozen
from backends.inside import store as helpers
from backends.virtual_machine import Image, System

__all__ = [
    "CONTAINERS",
    "SYSTEM_STORE",
    "Stored",
    "content_of",
    "find_image",
    "find_system",
    "key_of_name",
    "lock_folder",
    "own_store",
    "read_image",
    "read_stored",
    "stored",
    "stores",
    "system_name",
]

SYSTEM_STORE = "/var/lib/mxc-ops/images"
CONTAINERS = "base"
"""The image that a container's root is made of, where no other system is asked for."""
MANIFEST = "image.json"
IMPORTED = "imported"
"""An empty file in an image that was not built here: what it is made of is what somebody else says."""
NAMES = "names"
SCHEMA_VERSION = 2
_KEY_DIGITS = frozenset("0123456789abcdef")
_MAX_MANIFEST = 1 << 22


@frozen
class Stored:
    """An image in a store: its manifest, its directory, and the names that lead to it there."""

    store: str
    key: str
    manifest: Any
    names: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return f"{self.store}/{self.key}"


def user_store() -> str:
    """A user's own store, beside that of helpers: below ``XDG_DATA_HOME``, else ``~/.local/share``."""
    return f"{helpers.user_store().rpartition('/')[0]}/images"


def own_store() -> str:
    """The store that we put images into: the system's for root, else the user's own."""
    return SYSTEM_STORE if os.geteuid() == 0 else user_store()


def stores() -> tuple[tuple[str, int], ...]:
    """The stores that we take images from, in this order, each with the uid that it must belong to."""
    user = os.geteuid()
    system = ((SYSTEM_STORE, 0),)
    return system if user == 0 else (*system, (user_store(), user))


def find_image(name: str) -> Image:
    """The image of this name, or of this key.

    Raises `BackendUnavailable` when there is none, or when it is not whole, or not safe from others.
    """
    for store, owner in stores():
        key = name if is_key(name) else key_of_name(store, name)
        if key and os.path.lexists(f"{store}/{key}"):
            return _image(read_image(store, key, owner), name)
    message = f"there is no image {name!r} on this host"
    raise BackendUnavailable(Problem("no_image", "", message, fix=f"mxc-ops image build {name}"))


def find_system(wanted: System) -> Image:
    """The image with this system: `CONTAINERS` where it has that, else the one called DISTRIBUTION-RELEASE.

    Raises `BackendUnavailable` when neither has it, or the one that would do is not whole, or not safe.
    """
    there: list[str] = []
    buildable = wanted.distribution == "debian"
    for name in (CONTAINERS, system_name(wanted)):
        try:
            found = find_image(name)
        except BackendUnavailable as error:
            if error.problems[0].code != "no_image":
                raise
            continue
        if found.system.serves(wanted):
            return found
        known = found.system != System()
        there.append(f"{name!r} is {found.system if known else 'of a system that it does not tell'}")
        buildable &= name == CONTAINERS and not known
    message = "; ".join([f"no image on this host is {wanted}", *there])
    fix = f"mxc-ops image download {wanted.distribution} {wanted.releases[0]}"
    if buildable:
        fix = f"mxc-ops image build {CONTAINERS}"
    raise BackendUnavailable(Problem("no_image", "", message, fix=fix))


def system_name(system: System) -> str:
    """What an image of this system is called, unless it is a recipe's."""
    return f"{system.distribution}-{system.releases[0]}"


def read_image(store: str, key: str, owner: int) -> Stored:
    """An image's manifest, once its files were found to be whole by size and writable by nobody else.

    Parameters
    ----------
    owner: the uid that everything must belong to.

    Raises `BackendUnavailable`.
    """
    return read_stored(store, key, owner, _require_machine)


def _require_machine(manifest: dict[str, Any]) -> None:
    _ = [manifest[name] for name in ("commandLine", "memoryMib", "zygote", "format", "warmUp")]
    _ = manifest["inputs"].get("system")


def read_stored(store: str, key: str, owner: int, require: Callable[[dict[str, Any]], None]) -> Stored:
    """As `read_image`, for images of any kind.

    Parameters
    ----------
    require: raises `ValueError`, `KeyError`, `TypeError` or `AttributeError` for a manifest of another kind.
    """
    folder = f"{store}/{key}"
    _require_owned(store, owner, stat.S_IFDIR)
    _require_owned(folder, owner, stat.S_IFDIR)
    _require_owned(f"{folder}/{MANIFEST}", owner, stat.S_IFREG)
    fd = os.open(f"{folder}/{MANIFEST}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        text = os.read(fd, _MAX_MANIFEST)
    finally:
        os.close(fd)
    try:
        manifest: dict[str, Any] = json.loads(text)
        if manifest["schemaVersion"] != SCHEMA_VERSION or manifest["key"] != key:
            raise ValueError
        sizes = {part: int(entry["size"]) for part, entry in manifest["parts"].items()}
        require(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _spoilt(folder, f"{MANIFEST} is not what it should be") from error
    for part, size in sizes.items():
        status = _require_owned(f"{folder}/{part}", owner, stat.S_IFREG)
        if status.st_size != size:
            raise _spoilt(folder, f"{part} has {status.st_size} bytes, not {size}")
    return Stored(store, key, manifest)


def stored(
    store: str, owner: int, read: Callable[[str, str, int], Stored] = read_image
) -> Iterator[Stored | BackendUnavailable]:
    """Every image of a store with its names, or what is wrong with it; nothing without a store.

    Parameters
    ----------
    read: reads one, as `read_image` does.
    """
    names: dict[str, list[str]] = {}
    for name in _entries(f"{store}/{NAMES}"):
        names.setdefault(key_of_name(store, name), []).append(name)
    for key in filter(is_key, _entries(store)):
        try:
            found = read(store, key, owner)
        except BackendUnavailable as error:
            yield error
        else:
            yield Stored(store, key, found.manifest, tuple(names.get(key, ())))


@contextmanager
def lock_folder(folder: str, name: str) -> Generator[None]:
    """Keep an image from being removed while this is entered; machines do the same (`backends.qemu.parts`).

    Parameters
    ----------
    name: for the error.

    Raises `BackendUnavailable`, worth another look-up, when it was removed meanwhile.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise _gone(name) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        if not same_directory(fd, folder):
            raise _gone(name)
        yield
    finally:
        os.close(fd)


def same_directory(fd: int, path: str) -> bool:
    """Whether the directory that was opened is still the one at this path."""
    try:
        there = os.lstat(path)
    except OSError:
        return False
    here = os.fstat(fd)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def is_key(text: str) -> bool:
    return len(text) == 64 and _KEY_DIGITS.issuperset(text)


def content_of(found: Stored) -> str:
    """What the image is now, whatever its key says that it was made of."""
    return sha256(json.dumps(found.manifest["parts"], sort_keys=True).encode()).hexdigest()


def _image(found: Stored, name: str) -> Image:
    manifest = found.manifest
    boots = "vmlinux" in manifest["parts"]
    rootfs = next((part for part in manifest["parts"] if part.startswith("rootfs.")), "")
    return Image(
        name=name,
        key=found.key,
        content=content_of(found),
        kernel=f"{found.folder}/vmlinux" if boots else "",
        initrd=f"{found.folder}/initrd" if boots else "",
        rootfs=f"{found.folder}/{rootfs}" if rootfs else "",
        rootfs_format=manifest["format"] if rootfs else "",
        command_line=manifest["commandLine"],
        memory_mib=manifest["memoryMib"],
        zygote=manifest["zygote"],
        warm_up=manifest["warmUp"],
        system=_system(manifest["inputs"].get("system")),
    )


def _system(told: Any) -> System:
    """What a manifest says; nothing, where it is of another shape than ours: anybody may have written it."""
    try:
        distribution, releases = told["distribution"], tuple(told["releases"])
    except (TypeError, KeyError):
        return System()
    return System(distribution, releases) if all(map(_is_text, (distribution, *releases))) else System()


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def key_of_name(store: str, name: str, folder: str = NAMES) -> str:
    """The key that a name stands for; "" for none.

    Parameters
    ----------
    folder: of the store, which has the names.
    """
    if not name or "/" in name or name in (".", ".."):
        return ""
    try:
        key = os.readlink(f"{store}/{folder}/{name}").removeprefix("../")  # noqa: PTH115
    except OSError:
        return ""
    return key if is_key(key) else ""


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return []


def _require_owned(path: str, owner: int, kind: int) -> os.stat_result:
    """Nobody but its owner, who is ours, can have changed it."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise _spoilt(path.rpartition("/")[0], f"{path} cannot be seen: {error.strerror}") from error
    if stat.S_IFMT(status.st_mode) != kind:
        raise _spoilt(path, f"{path} is something else than it should be")
    if status.st_uid != owner or status.st_mode & 0o022:
        message = (
            f"{path} belongs to uid {status.st_uid} with mode {status.st_mode & 0o7777:04o}:"
            f" others than uid {owner} can write to it"
        )
        raise BackendUnavailable(
            Problem("image_unsafe", "", message, fix=f"chown {owner} {path} && chmod go-w {path}")
        )
    return status


def _spoilt(folder: str, message: str) -> BackendUnavailable:
    fix = f"mxc-ops image remove {folder.rpartition('/')[2]}, then build or import it again"
    return BackendUnavailable(Problem("image_spoilt", "", f"{folder}: {message}", fix=fix))


def _gone(name: str) -> BackendUnavailable:
    message = f"the image {name!r} was removed a moment ago"
    fix = f"mxc-ops image build {name}"
    return BackendUnavailable(Problem("image_removed", "", message, fix=fix), retryable=True)
