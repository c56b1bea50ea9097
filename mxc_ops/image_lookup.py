"""The image that a request is run from, found in the store by what the request says of it."""

from __future__ import annotations

from collections.abc import Callable

from backends.base import SandboxRequest
from backends.errors import BackendUnavailable, ConfigError, Problem
from backends.frozen import replace
from backends.hyperlight_settings import Driver, Runtime
from backends.virtual_machine import CommandKind, Image, System, VirtualMachine
from mxc_ops.policy import machine

__all__ = ["with_image"]


def with_image(request: SandboxRequest, *, kept: bool = False, may_import: bool = True) -> SandboxRequest:
    """The request with its image, where it takes one and has none yet, and its driver, where there are two.

    Parameters
    ----------
    kept: the sandbox is to be one of a session, or to wait for its run.
    may_import: whether a container's image may be put into the store for it.

    Raises `BackendUnavailable` where there is none such, `ConfigError` for what is no image's name; both say
    where the document asks for it.
    """
    runtime = Runtime.PYTHON
    if request.hyperlight is not None:
        runtime = request.hyperlight.runtime
        request = _with_driver(request, runtime, kept)
        if request.hyperlight is not None and request.hyperlight.driver is Driver.NATIVE:
            return request
    if request.wslc is not None:
        from mxc_ops.container_lookup import with_container

        request = with_container(request, may_import=may_import)
    vm = machine.complete(request.containment, request.vm, has_args=bool(request.args), runtime=runtime)
    if vm is not None and vm.image is None:
        return _of_machine(request, vm)
    if request.containment == "lxc" and request.image is None:
        pointer = request.pointers.get("system", "/lxc") if request.system != System() else ""
        return replace(request, image=_found(lambda: _of_system(request.system), pointer))
    return request


def _with_driver(request: SandboxRequest, runtime: Runtime, kept: bool) -> SandboxRequest:
    from backends.hyperlight.driver import with_driver

    said = machine.without_defaults(request.containment, request.vm, runtime) if request.vm else None
    return with_driver(replace(request, vm=said), kept=kept)


def _of_machine(request: SandboxRequest, vm: VirtualMachine) -> SandboxRequest:
    from vm_images.store import find_image

    pointer = request.pointers.get("image", "/mxcOps/vm/image")
    if not machine.is_image_name(vm.image_name):
        message = f"{vm.image_name!r} is not the name of an image"
        raise ConfigError(Problem("invalid_value", pointer, message, expected=machine.A_NAME))
    try:
        found = _found(lambda: find_image(vm.image_name), pointer)
    except BackendUnavailable as error:
        raise _of_runtime(request, vm, error) from error
    return replace(request, vm=replace(vm, image=found))


def _of_runtime(request: SandboxRequest, vm: VirtualMachine, error: BackendUnavailable) -> BackendUnavailable:
    """The same, for a runtime that others have to make an image of."""
    if vm.command is not CommandKind.DOTNET_JIT or error.problems[0].code != "no_image":
        return error
    message = (
        f"there is no image {vm.image_name!r} on this host, and mxc-ops has no recipe for it:"
        " it takes .NET's SDK, which Debian does not have"
    )
    expected = "an image with a program dotnet-jit that takes source after -c"
    fix = f"mxc-ops image build RECIPE.toml --name {vm.image_name}"
    pointer = request.pointers.get("runtime" if request.hyperlight else "command_kind", "")
    return BackendUnavailable(Problem("no_image", pointer, message, expected=expected, fix=fix))


def _of_system(system: System) -> Image:
    from vm_images.store import CONTAINERS, find_image, find_system

    return find_image(CONTAINERS) if system == System() else find_system(system)


def _found(look: Callable[[], Image], pointer: str) -> Image:
    try:
        return look()
    except BackendUnavailable as error:
        problems = [
            Problem(found.code, found.path or pointer, found.message, expected=found.expected, fix=found.fix)
            for found in error.problems
        ]
        raise BackendUnavailable(problems, retryable=error.retryable) from error
