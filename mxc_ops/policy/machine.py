"""What a document or a policy may say of its virtual machine, and what holds where it says nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from backends.frozen import replace
from backends.virtual_machine import LANGUAGES, CommandKind, VirtualMachine

__all__ = [
    "ACCELERATORS",
    "A_NAME",
    "COMMANDS",
    "CONTAINMENTS",
    "FIELDS",
    "IMAGE_NAME",
    "MACHINES",
    "VM_RANGES",
    "command_kind",
    "complete",
    "is_image_name",
    "said",
    "without_defaults",
]

CONTAINMENTS = ("microvm", "vm")
"""Both are made by one engine; they differ in what they take a command for, and in their image."""

ACCELERATORS = ("kvm", "tcg", "auto")
MACHINES = ("microvm", "q35")
COMMANDS = tuple(kind.value for kind in CommandKind)

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
    # A distribution's kernel with its initrd does not come up in less; more than the most is rather a slip
    # than a sandbox.
    "memoryMib": (96, 65536),
    # Each is a thread of the host, so a document asks for no more of them than one machine may weigh.
    "cpus": (1, 64),
}
"""Document spelling → least and greatest value, both allowed."""


def is_image_name(name: str) -> bool:
    import re

    return re.fullmatch(IMAGE_NAME, name) is not None


def command_kind(containment: str, vm: VirtualMachine | None, *, has_args: bool) -> CommandKind | None:
    """What the command is in the machine of this containment; None where there is no machine.

    What `vm` says goes first, then an argument vector is one; a text is Python source for ``microvm``, as in
    upstream's configs, and a line for the shell for ``vm``.
    """
    if containment not in CONTAINMENTS:
        return None
    if vm is not None and vm.command is not None:
        return vm.command
    if has_args:
        return CommandKind.ARGS
    return CommandKind.PYTHON if containment == "microvm" else CommandKind.SHELL


def complete(containment: str, vm: VirtualMachine | None, *, has_args: bool) -> VirtualMachine | None:
    """The machine with its command kind and image name filled in; None where there is no machine."""
    kind = command_kind(containment, vm, has_args=has_args)
    if kind is None:
        return None
    vm = vm or VirtualMachine()
    return replace(vm, command=kind, image_name=vm.image_name or _default_image(containment, kind))


def without_defaults(containment: str, vm: VirtualMachine) -> VirtualMachine | None:
    """The reverse of `complete`: only what does not hold anyway, None when that is nothing."""
    assert vm.command is not None
    default = _default_image(containment, vm.command)
    kind: CommandKind | None = vm.command
    if kind is command_kind(containment, None, has_args=kind is CommandKind.ARGS):
        kind = None
    less = replace(vm, command=kind, image_name=vm.image_name if vm.image_name != default else "", image=None)
    return less if less != VirtualMachine() else None


def said(vm: VirtualMachine) -> Iterator[tuple[str, str]]:
    """(field, value) of everything that the machine is told, in words."""
    for name in FIELDS.values():
        value = getattr(vm, name)
        if value:
            yield name, str(value.value if isinstance(value, CommandKind) else value)


def _default_image(containment: str, kind: CommandKind) -> str:
    if kind in LANGUAGES:
        return kind.value
    return "python" if containment == "microvm" else "base"
