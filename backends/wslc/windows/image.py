"""Which image a container of Windows' own is made of, and how it gets into the session's cache (pure).

It is never pulled (backends.md §5): a reference must be in the cache already, an archive is imported from the
host. Only ``WslcPullSessionImage`` pulls, and no plan has it; without its image a container is not made
(``WSLC_E_IMAGE_NOT_FOUND``), and a digest in a reference holds the engine to it. An archive of a root file
system gets a name by its digest, so that no image that was cached under a name before is taken for it;
upstream skips the import then.
"""

from __future__ import annotations

import re

from backends.base import ObjectKind
from backends.errors import Problem
from backends.frozen import frozen
from backends.windows.executor import executor
from backends.wslc.windows.facts import ArchiveFormat, WindowsFacts
from backends.wslc.windows.paths import WindowsPath, shown
from backends.wslc.windows.steps import Phase, Step, When
from backends.wslc.windows.volumes import LINUX_FIX, look_up
from backends.wslc_settings import WslcSettings

__all__ = ["PlannedImage", "plan_image"]

_LONGEST_NAME = 255  # WSLC_IMAGE_NAME_LENGTH is 256, with the end of the string
_REFERENCE = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
    r"(?P<tag>:[A-Za-z0-9_][A-Za-z0-9._-]*)?(?P<digest>@sha256:[0-9a-f]{64})?"
)


@frozen
class PlannedImage:
    """`setup` is the command that puts a missing image into the cache, to be started by a user, once.
    `archive` is where the image comes from, if not from the cache."""

    name: str
    steps: tuple[Step, ...]
    setup: tuple[str, ...] = ()
    archive: WindowsPath | None = None
    decisions: tuple[str, ...] = ()


def plan_image(
    settings: WslcSettings, facts: WindowsFacts, storage: str, pointer: str
) -> PlannedImage | Problem:
    """`storage` is the host directory of the session, `pointer` where the document's `wslc` section is."""
    if settings.image_tar:
        return _from_archive(settings.image_tar, facts, f"{pointer}/imageTarPath")
    name = settings.image
    reference = _REFERENCE.fullmatch(name)
    if len(name) > _LONGEST_NAME or reference is None:
        message = f"{shown(name[:_LONGEST_NAME])} is no reference of an image"
        expected = f"such as 'alpine:latest', at most {_LONGEST_NAME} characters"
        return Problem("image_reference", f"{pointer}/image", message, expected=expected)
    if not reference["tag"] and not reference["digest"]:
        name += ":latest"
    path = executor("wslc").data["path"]
    setup = (f"{path}\\bin\\x64\\wxc-exec.exe", "--setup-wslc", "--image", name, "--storage-path", storage)
    decision = f"{pointer}/image: {shown(name)} must be in the cache of the session; it is never pulled"
    steps = () if reference["digest"] else (_listed(name),)
    return PlannedImage(name, steps, setup, decisions=(decision,))


def _listed(name: str) -> Step:
    """The cache, which lists tags only, is asked first, so that the answer can be `setup`."""
    return Step(Phase.PROVISION, "WslcListSessionImages", {"expect": {"name": name}})


def _from_archive(written: str, facts: WindowsFacts, pointer: str) -> PlannedImage | Problem:
    found = look_up(written, pointer, facts)
    if isinstance(found, Problem):
        return found
    path, fact = found
    if fact.kind is not ObjectKind.FILE or facts.archive is None:
        message = f"{shown(written)} is no archive: neither of a root file system nor of an image"
        fix = f'docker save --output "{path}" alpine:latest'
        return Problem("image_archive", pointer, message, expected="a tar archive", fix=fix)
    archive = facts.archive
    if archive.format is ArchiveFormat.ROOT_FILE_SYSTEM:
        name = f"mxc-ops/import:{archive.digest[:32]}"
        arguments = {"imageName": name, "path": str(path)}
        importing = Step(Phase.PROVISION, "WslcImportSessionImageFromFile", arguments, When.NOT_LISTED)
        decision = f"{pointer}: a root file system, imported as {name}"
    elif len(archive.names) != 1:
        message = f"{shown(written)} names {len(archive.names)} images, and none of them is the one by itself"
        fix = f"docker save --output ARCHIVE NAME:TAG, of one image, or {LINUX_FIX}"
        return Problem("image_archive", pointer, message, expected="an archive of one named image", fix=fix)
    else:
        name = archive.names[0]
        importing = Step(Phase.PROVISION, "WslcLoadSessionImageFromFile", {"path": str(path)})
        decision = f"{pointer}: an archive of the image {shown(name)}"
    return PlannedImage(name, (importing, _listed(name)), archive=path, decisions=(decision,))
