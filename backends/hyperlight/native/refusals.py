"""What the packages cannot hold of a request: for that there is the driver ``qemu`` (pure, and of no host).

Their machine runs Python source and has a clock, random numbers, and tools. It has no files, no processes and
no terminal; the packages' own folders (``/input``, ``/output``) and their own network (HTTP to names, by the
host, which looks at no address) mean something else than grants at ``/host`` and our rules do.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.base import Access, SandboxRequest
from backends.errors import Problem
from backends.features import Feature
from backends.hyperlight.native.guest_modules import missing_modules
from backends.hyperlight_settings import HyperlightSettings, Runtime

__all__ = ["FIX", "LEAST_MEMORY_MIB", "MOST_MEMORY_MIB", "native_problems"]

FIX = "let QEMU run it: mxcOps.hyperlight.driver: qemu"
LEAST_MEMORY_MIB = 60
"""What the packages give a machine by themselves on Linux: 25 MiB of heap, and 35 to write to."""
MOST_MEMORY_MIB = 16_000
"""Their host library allows a little less than 16 GiB."""

_NETWORK = (Feature.EGRESS, Feature.INGRESS, Feature.HOST_LOOPBACK, Feature.NETWORK_PROXY)


def native_problems(request: SandboxRequest) -> tuple[Problem, ...]:
    """Every thing that the native driver refuses, with the field; () where it can run the request.

    Where nobody asked for the native driver, a program that imports what the packages' Python lacks counts as
    one, too: it is only the text that says so, but QEMU's Python has all of it.
    """
    return tuple(_problems(request))


def _problems(request: SandboxRequest) -> Iterator[Problem]:
    yield from _command(request)
    yield from _files(request)
    yield from _network(request)
    yield from _machine(request)
    if request.tty:
        message = "the packages' machine has no terminal"
        yield _problem("tty_not_supported", _pointer(request, "tty", "/mxcOps/tty"), message)


def _command(request: SandboxRequest) -> Iterator[Problem]:
    settings = request.hyperlight or HyperlightSettings()
    if settings.runtime is not Runtime.PYTHON:
        message = f"the packages have no runtime {settings.runtime.value!r}"
        if settings.runtime is Runtime.NODE:
            message += ": their JavaScript is an engine without Node's modules"
        place = _pointer(request, "runtime", "/hyperlight/runtime")
        yield _problem("runtime_not_supported", place, message, expected=Runtime.PYTHON.value)
    elif request.shell is None:
        message = "the packages run Python source, not an argument vector"
        yield _problem("args_not_supported", _pointer(request, "args", "/mxcOps/args"), message)
    elif settings.driver is None and (missing := missing_modules(request.shell)):
        message = (
            f"the packages' Python has no module {', '.join(missing)}, which the program seems to import"
        )
        place = _pointer(request, "shell", "/process/commandLine")
        yield _problem("module_missing", place, message)
    if request.cwd not in (None, "/"):
        message = f"the packages' machine has no directories, and so no {request.cwd!r} to work in"
        yield _problem("cwd_not_supported", _pointer(request, "cwd", "/process/cwd"), message, expected="/")


def _files(request: SandboxRequest) -> Iterator[Problem]:
    """What is denied needs nothing: nothing of the host's is in the machine."""
    for grant in request.grants:
        if grant.access is not Access.DENIED:
            message = (
                f"the packages know one folder to read and one to write, and none at /host: {grant.path!r}"
            )
            yield _problem("grant_not_supported", grant.pointer, message)


def _network(request: SandboxRequest) -> Iterator[Problem]:
    if request.network.is_isolated:
        return
    message = "the packages' network is HTTP to names, carried by the host to whatever address a name has"
    asked = [asked for asked in request.asked if asked.feature in _NETWORK]
    for wish in asked:
        yield _problem("network_not_supported", wish.pointer, f"{wish.value}: {message}")
    if not asked:
        yield _problem("network_not_supported", _pointer(request, "network", "/network"), message)


def _machine(request: SandboxRequest) -> Iterator[Problem]:
    memory_mib = request.limits.memory_mib
    if memory_mib is not None and not LEAST_MEMORY_MIB <= memory_mib <= MOST_MEMORY_MIB:
        yield _problem(
            "memory_not_supported",
            f"{_pointer(request, 'limits', '/mxcOps/limits')}/memoryMib",
            f"the packages' machine does not have {memory_mib} MiB",
            expected=f"{LEAST_MEMORY_MIB} to {MOST_MEMORY_MIB}",
        )
    machine = request.vm
    if machine is None:
        return
    for name, value in (
        ("image", machine.image_name),
        ("memoryMib", machine.memory_mib),
        ("cpus", machine.cpus),
        ("accelerator", machine.accelerator),
        ("machine", machine.machine),
        ("command", machine.command),
    ):
        if value:
            message = f"the packages make their machine themselves: {name} is QEMU's"
            yield _problem("machine_not_supported", _pointer(request, name, f"/mxcOps/vm/{name}"), message)


def _pointer(request: SandboxRequest, field: str, otherwise: str) -> str:
    return request.pointers.get(field, otherwise)


def _problem(code: str, pointer: str, message: str, *, expected: str = "") -> Problem:
    return Problem(code, pointer, message, expected=expected, fix=FIX)
