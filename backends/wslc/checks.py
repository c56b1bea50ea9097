"""What no container in a virtual machine of ours can have, each refused by name. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from backends.base import SandboxRequest
from backends.errors import Problem
from backends.virtual_machine import CPUS, MEMORY_MIB, CommandKind
from backends.wslc.shared.plan import unshared
from backends.wslc_settings import DEFAULT_IMAGE, WslcSettings

__all__ = ["container_problems"]

_TAKEN = (CommandKind.SHELL, CommandKind.ARGS, CommandKind.BASH)


def container_problems(request: SandboxRequest, settings: WslcSettings) -> Iterator[Problem]:
    """Of the section ``wslc``, and of what is said beside it."""
    pointer = request.pointers.get("wslc", "/wslc")
    if settings.target_os != "linux":
        message = f"there are no containers of {settings.target_os!r}, only Linux ones"
        yield Problem("target_os", f"{pointer}/targetOs", message, expected="linux")
    if settings.gpu:
        message = "the virtual machine that containers run in has no graphics processor"
        fix = f"remove {pointer}/gpu"
        yield Problem("gpu_not_supported", f"{pointer}/gpu", message, expected="false", fix=fix)
    if settings.image_tar and settings.image != DEFAULT_IMAGE:
        message = "both an image and an archive say what the container is made of"
        fix = f"remove {pointer}/image, or {pointer}/imageTarPath"
        yield Problem("conflicting_fields", f"{pointer}/imageTarPath", message, expected="one", fix=fix)
    yield from _path_problems(settings, pointer)
    yield from _machine_problems(request, settings, pointer)
    if settings.shared_vm:
        yield from unshared(request, settings)
    for field in ("user", "group"):
        if getattr(request, field) is not None:
            message = "a container runs as its image's own user, whoever starts it"
            place = request.pointers.get(field, f"/mxcOps/{field}")
            yield Problem("user_not_supported", place, message, fix="build the image with that USER")


def _path_problems(settings: WslcSettings, pointer: str) -> Iterator[Problem]:
    for name, path in (("imageTarPath", settings.image_tar), ("storagePath", settings.storage)):
        if path and not path.startswith("/"):
            message = f"{path!r} is relative; what it names would depend on where the run is started"
            yield Problem("path_relative", f"{pointer}/{name}", message, expected="an absolute path")


def _machine_problems(request: SandboxRequest, settings: WslcSettings, pointer: str) -> Iterator[Problem]:
    for name, value, (least, most) in (
        ("memoryMb", settings.memory_mib, MEMORY_MIB),
        ("cpuCount", settings.cpus, CPUS),
    ):
        if value is not None and not least <= value <= most:
            message = f"no machine has {value}"
            yield Problem("out_of_range", f"{pointer}/{name}", message, expected=f"{least} to {most}")
    vm = request.vm
    if vm is None:
        return
    if vm.command is not None and vm.command not in _TAKEN:
        message = f"nothing waits in a container that takes {vm.command.value} source"
        place = request.pointers.get("command_kind", "/mxcOps/vm/command")
        yield Problem("command_kind", place, message, expected=", ".join(kind.value for kind in _TAKEN))
    for name, ours, theirs in (
        ("memoryMib", vm.memory_mib, settings.memory_mib),
        ("cpus", vm.cpus, settings.cpus),
    ):
        if ours is not None and theirs is not None and ours != theirs:
            message = f"the section {pointer} says {theirs}, and this {ours}"
            yield Problem("conflicting_fields", f"/mxcOps/vm/{name}", message, fix="say it once")
