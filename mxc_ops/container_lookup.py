"""The image that a WSL container is made from: found in the store, or put there where the request asks."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from backends.base import SandboxRequest
from backends.container_image import ContainerImage
from backends.errors import BackendUnavailable, ConfigError, MxcError, PolicyRefused, Problem
from backends.frozen import replace
from backends.wslc.checks import container_problems
from backends.wslc_settings import WslcSettings

__all__ = ["with_container"]


def with_container(request: SandboxRequest, *, may_import: bool) -> SandboxRequest:
    """The request with its container's image.

    An archive is imported, once, and an image that may be pulled is, when it is not here; nothing else is
    ever fetched when something is run (backends.md §5).

    Parameters
    ----------
    may_import: otherwise the store stays as it is.

    Raises `BackendUnavailable` where there is no such image, `ConfigError` for one that is refused or for
    what is no reference, `PolicyRefused` for what no container can have, which is found before anything else,
    and for an archive that the caller may not read.
    """
    settings = request.wslc
    if settings is None:
        return request
    if problems := tuple(container_problems(request, settings)):
        raise PolicyRefused(problems)
    if settings.found is not None:
        return request
    pointer = request.pointers.get("wslc", "/wslc")
    if settings.image_tar:
        place = _field(pointer, "imageTarPath", "image_tar")
        found = replace(settings, found=_imported(settings, place, may_import))
    else:
        place = _field(pointer, "image", "image")
        found = replace(settings, found=_found(settings, place, may_import))
    return replace(request, wslc=found)


def _field(pointer: str, of_document: str, of_policy: str) -> str:
    return f"{pointer}/{of_document}" if pointer.startswith("/") else f"{pointer}.{of_policy}"


def _found(settings: WslcSettings, pointer: str, may_import: bool) -> ContainerImage:
    from vm_images.oci.store import container_image, find_container_image

    try:
        return find_container_image(settings.image, pointer)
    except BackendUnavailable as error:
        if error.problems[0].code != "no_image" or not (settings.pull and may_import):
            raise
    from vm_images.oci.importing import pull

    return container_image(pull(settings.image))


def _imported(settings: WslcSettings, pointer: str, may_import: bool) -> ContainerImage:
    from vm_images.oci.importing import import_archive, known_archive
    from vm_images.oci.store import container_image

    path = settings.image_tar
    fd = _open(path, pointer)
    try:
        opened = Path(f"/proc/self/fd/{fd}")
        found = known_archive(opened, path)
        if found is None and may_import:
            found = import_archive(opened, subject=path)
    except MxcError as error:
        raise type(error)(
            [
                Problem(each.code, pointer, each.message, expected=each.expected, fix=each.fix)
                for each in error.problems
            ],
            retryable=error.retryable,
        ) from error
    finally:
        os.close(fd)
    if found is None:
        message = f"{path!r} is not imported yet"
        fix = f"mxc-ops image import {shlex.quote(path)}"
        raise BackendUnavailable(Problem("no_image", pointer, message, fix=fix))
    return container_image(found)


def _open(path: str, pointer: str) -> int:
    """With the rights of whoever calls us, who is not always who we are."""
    from backends.linux.delegation import as_caller, calling_user

    if not path.startswith("/"):
        message = f"{path!r} is relative; what it names would depend on where the run is started"
        raise ConfigError(Problem("path_relative", pointer, message, expected="an absolute path"))
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        return as_caller(calling_user(), lambda _: os.open(path, flags))
    except (OSError, ValueError) as error:
        message = f"the archive {path!r} cannot be opened: {error}"
        fix = "name a file that exists and that you may read"
        raise PolicyRefused(Problem("archive_unreadable", pointer, message, fix=fix)) from error
