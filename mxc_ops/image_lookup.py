"""The image that a request is run from, found in the store by what the request says of it."""

from __future__ import annotations

from collections.abc import Callable

from backends.base import SandboxRequest
from backends.errors import BackendUnavailable, ConfigError, Problem
from backends.frozen import replace
from backends.hyperlight_settings import Driver, Runtime
from backends.virtual_machine import Image, System, VirtualMachine
from mxc_ops.policy import machine

__all__ = ["with_image"]


def with_image(request: SandboxRequest) -> SandboxRequest:
    """The request with its image, where it takes one and has none yet, and its driver, where there are two.

    Raises `BackendUnavailable` where there is none such, `ConfigError` for what is no image's name; both say
    where the document asks for it.
    """
    runtime = Runtime.PYTHON
    if request.hyperlight is not None:
        from backends.hyperlight.driver import with_driver

        request, runtime = with_driver(request), request.hyperlight.runtime
        if request.hyperlight is not None and request.hyperlight.driver is Driver.NATIVE:
            return request
    vm = machine.complete(request.containment, request.vm, has_args=bool(request.args), runtime=runtime)
    if vm is not None and vm.image is None:
        return _of_machine(request, vm)
    if request.containment == "lxc" and request.image is None:
        pointer = request.pointers.get("system", "/lxc") if request.system != System() else ""
        return replace(request, image=_found(lambda: _of_system(request.system), pointer))
    return request


def _of_machine(request: SandboxRequest, vm: VirtualMachine) -> SandboxRequest:
    from vm_images.store import find_image

    pointer = request.pointers.get("image", "/mxcOps/vm/image")
    if not machine.is_image_name(vm.image_name):
        message = f"{vm.image_name!r} is not the name of an image"
        raise ConfigError(Problem("invalid_value", pointer, message, expected=machine.A_NAME))
    return replace(request, vm=replace(vm, image=_found(lambda: find_image(vm.image_name), pointer)))


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
