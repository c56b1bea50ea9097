"""What a document or a policy may say of its virtual machine, and what holds where it says nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backends.errors import ConfigError, Problem
from backends.frozen import replace
from backends.hyperlight_settings import RUNTIMES, Driver, Runtime
from backends.virtual_machine import CPUS, LANGUAGES, MEMORY_MIB, CommandKind, VirtualMachine

__all__ = [
    "ACCELERATORS",
    "A_NAME",
    "COMMANDS",
    "CONTAINMENTS",
    "DRIVERS",
    "FIELDS",
    "IMAGE_NAME",
    "MACHINES",
    "OF_CONTAINER_IMAGES",
    "OF_RUNTIMES",
    "RUNTIME_NAMES",
    "UTILITY",
    "VM_RANGES",
    "check_runtime",
    "command_kind",
    "complete",
    "is_image_name",
    "said",
    "without_defaults",
]

CONTAINMENTS = ("microvm", "vm", "hyperlight", "wslc")
"""All are made by one engine; they differ in what they take a command for, and in their image."""

OF_RUNTIMES = ("hyperlight",)
"""Those whose command is source for a runtime that is named: nothing else says what it is."""

OF_CONTAINER_IMAGES = ("wslc",)
"""Those whose workload runs from a container's image, which says its environment and working directory."""

UTILITY = "utility"
"""The image of the machine that containers are in."""

ACCELERATORS = ("kvm", "tcg", "auto")
MACHINES = ("microvm", "q35")
COMMANDS = tuple(kind.value for kind in CommandKind)
RUNTIME_NAMES = tuple(runtime.value for runtime in Runtime)
DRIVERS = ("auto", *(driver.value for driver in Driver))

IMAGE_NAME = "[a-z0-9][a-z0-9._-]*"
"""Names of the image store, never paths: whoever writes a document must not choose files of the host."""

A_NAME = "a name of small letters, digits, '.', '_' and '-', no path"

FIELDS: Mapping[str, str] = {
    "image": "image_name",
    "memoryMib": "memory_mib",
    "cpus": "cpus",
    "accel": "accelerator",
    "machine": "machine",
    "command": "command",
}
"""Fields of ``mxcOps.vm`` by their document spelling → field of `VirtualMachine`."""

VM_RANGES: Mapping[str, tuple[int, int]] = {
    "memoryMib": MEMORY_MIB,
    "cpus": CPUS,
}
"""Document spelling → least and greatest value, both allowed."""


def is_image_name(name: str) -> bool:
    import re

    return re.fullmatch(IMAGE_NAME, name) is not None


def command_kind(
    containment: str, vm: VirtualMachine | None, *, has_args: bool, runtime: Runtime = Runtime.PYTHON
) -> CommandKind | None:
    """What the command is in the machine of this containment; None where there is no machine.

    For ``hyperlight`` that is as `runtime` takes it. Else what `vm` says goes first, then an argument vector
    is one; a text is Python source for ``microvm``, as in upstream's configs, and a line for the shell for
    ``vm``.
    """
    if containment not in CONTAINMENTS:
        return None
    if containment in OF_RUNTIMES:
        return RUNTIMES[runtime].command
    if vm is not None and vm.command is not None:
        return vm.command
    if has_args:
        return CommandKind.ARGS
    return CommandKind.PYTHON if containment == "microvm" else CommandKind.SHELL


def check_runtime(
    containment: str, vm: VirtualMachine | None, pointers: Mapping[str, str], *, has_args: bool
) -> None:
    """Refuse what contradicts that a command is source for a runtime.

    Parameters
    ----------
    pointers: where the caller wrote ``args`` and ``command_kind``.

    Raises `ConfigError`.
    """
    if containment not in OF_RUNTIMES:
        return
    problems: list[Problem] = []
    if has_args:
        message = f"a command of {containment} is source for its runtime, not an argument vector"
        fix = "say it as one text, or use containment vm"
        problems.append(Problem("conflicting_fields", pointers["args"], message, expected="source", fix=fix))
    if vm is not None and vm.command is not None:
        message = f"what a command of {containment} is, its runtime says"
        fix = "name the runtime that is meant, and leave this out"
        problems.append(Problem("conflicting_fields", pointers["command_kind"], message, fix=fix))
    if problems:
        raise ConfigError(problems)


def complete(
    containment: str, vm: VirtualMachine | None, *, has_args: bool, runtime: Runtime = Runtime.PYTHON
) -> VirtualMachine | None:
    """The machine with its command kind and image name filled in; None where there is no machine.

    Parameters
    ----------
    runtime: what takes the command of ``hyperlight``.
    """
    kind = command_kind(containment, vm, has_args=has_args, runtime=runtime)
    if kind is None:
        return None
    vm = vm or VirtualMachine()
    return replace(vm, command=kind, image_name=vm.image_name or _default_image(containment, kind, runtime))


def without_defaults(
    containment: str, vm: VirtualMachine, runtime: Runtime = Runtime.PYTHON
) -> VirtualMachine | None:
    """The reverse of `complete`: only what does not hold anyway, None when that is nothing."""
    assert vm.command is not None
    default = _default_image(containment, vm.command, runtime)
    kind: CommandKind | None = vm.command
    if kind is command_kind(containment, None, has_args=kind is CommandKind.ARGS, runtime=runtime):
        kind = None
    less = replace(vm, command=kind, image_name=vm.image_name if vm.image_name != default else "", image=None)
    return less if less != VirtualMachine() else None


def said(vm: VirtualMachine) -> Iterator[tuple[str, str]]:
    """(field, value) of everything that the machine is told, in words."""
    for name in FIELDS.values():
        value = getattr(vm, name)
        if value:
            yield name, str(value.value if isinstance(value, CommandKind) else value)


def _default_image(containment: str, kind: CommandKind, runtime: Runtime) -> str:
    if containment in OF_RUNTIMES:
        return RUNTIMES[runtime].image
    if containment in OF_CONTAINER_IMAGES:
        return UTILITY
    if kind in LANGUAGES or kind is CommandKind.DOTNET_JIT:
        return kind.value
    return "python" if containment == "microvm" else "base"
