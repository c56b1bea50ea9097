"""What an image's config says of a run (OCI image specification, ``config.md``). Pure."""

from __future__ import annotations

import json
import posixpath
from typing import Any, cast

from backends.frozen import frozen
from vm_images.oci.refusals import BadEntry, shown

__all__ = ["ARCHITECTURE", "SYSTEM", "ContainerConfig", "parse_config", "parse_document", "parse_json"]

SYSTEM, ARCHITECTURE = "linux", "amd64"
"""The one platform that machines are made for, as images spell it."""
_MAX_ENVIRONMENT = 128 << 10
"""Bytes of all variables: as much as Linux takes of one (execve(2))."""
_MAX_USER = 256
_MAX_DIRECTORY = 4095


@frozen
class ContainerConfig:
    """`user` is as the image says it: a name or number, and perhaps a group after a colon.

    `layers` are the digests of its layers, not compressed.
    """

    env: tuple[tuple[str, str], ...] = ()
    user: str = ""
    working_dir: str = "/"
    os: str = SYSTEM
    architecture: str = ARCHITECTURE
    layers: tuple[str, ...] = ()


def parse_document(text: bytes, what: str, limit: int) -> dict[str, Any]:
    """A JSON document that is an object; otherwise as `parse_json`."""
    found = parse_json(text, what, limit)
    if not isinstance(found, dict):
        raise BadEntry("image_document", f"{what} is no JSON object")
    return cast("dict[str, Any]", found)


def parse_json(text: bytes, what: str, limit: int) -> object:
    """A JSON document. Raises `BadEntry`.

    Parameters
    ----------
    what: it is, for the error.
    limit: bytes that it may have.
    """
    if len(text) > limit:
        raise BadEntry("image_too_large", f"{what} has {len(text)} bytes, more than {limit}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadEntry("image_document", f"{what} is no JSON document: {str(error)[:80]}") from error


def parse_config(text: bytes, limit: int) -> ContainerConfig:
    """Read a config. Raises `BadEntry` for one that is not as it should be, or of another platform."""
    document = parse_document(text, "the config", limit)
    system, architecture = document.get("os"), document.get("architecture")
    if (system, architecture) != (SYSTEM, ARCHITECTURE):
        message = (
            f"it is for {shown(f'{system}/{architecture}')}, and machines here are {SYSTEM}/{ARCHITECTURE}"
        )
        raise BadEntry("image_platform", message)
    rootfs = _object(document.get("rootfs"), "rootfs")
    layers = rootfs.get("diff_ids")
    if rootfs.get("type") != "layers" or not _all_text(layers):
        raise _wrong("rootfs", "does not tell the digests of the layers")
    run = _object(document.get("config") or {}, "config")
    return ContainerConfig(
        env=_environment(run.get("Env")),
        user=_user(run.get("User")),
        working_dir=_directory(run.get("WorkingDir")),
        layers=tuple(cast("list[str]", layers)),
    )


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(name, "is no object")
    return cast("dict[str, Any]", value)


def _all_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in cast("list[object]", value))


def _environment(value: object) -> tuple[tuple[str, str], ...]:
    """The last of two entries of one name counts, as for execve's callers."""
    if value is None:
        return ()
    if not _all_text(value):
        raise _wrong("config.Env", "is no list of strings")
    entries = cast("list[str]", value)
    if sum(len(entry) for entry in entries) > _MAX_ENVIRONMENT:
        raise _wrong("config.Env", f"has more than {_MAX_ENVIRONMENT} characters")
    found: dict[str, str] = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        if not name or not equals or not _is_text(entry):
            raise _wrong("config.Env", f"has {shown(entry)}, which is no NAME=VALUE")
        found[name] = text
    return tuple(found.items())


def _user(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _MAX_USER or not value.isprintable():
        raise _wrong("config.User", f"is {shown(str(value))}, which is nobody")
    return value


def _directory(value: object) -> str:
    if value is None or value == "":
        return "/"
    if not isinstance(value, str) or not _is_text(value) or len(value) > _MAX_DIRECTORY:
        raise _wrong("config.WorkingDir", f"is {shown(str(value))}, which is no path")
    if not value.startswith("/") or ".." in value.split("/"):
        raise _wrong("config.WorkingDir", f"is {shown(value)}, which is no absolute path without ..")
    return "/" + posixpath.normpath(value).lstrip("/")


def _is_text(value: str) -> bool:
    """What a process can be given: no NUL, and nothing that is no character."""
    try:
        return b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _wrong(name: str, message: str) -> BadEntry:
    return BadEntry("image_config", f"the config's {name} {message}")
