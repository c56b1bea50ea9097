"""The flags of a virtual machine: the policy of a command after ``--``, and ``--accel`` for documents too."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING

from backends.errors import ConfigError, PolicyRefused, Problem
from mxc_ops.policy import machine

if TYPE_CHECKING:
    from backends.base import SandboxRequest
    from backends.hyperlight_settings import HyperlightSettings
    from backends.virtual_machine import VirtualMachine
    from backends.wslc_settings import WslcSettings

FLAGS: Mapping[str, str] = {
    "vm": "--backend",
    "vm.image_name": "--image",
    "vm.memory_mib": "--vm-memory",
    "vm.cpus": "--vm-cpus",
    "vm.accelerator": "--accel",
    "vm.machine": "--machine",
    "vm.command": "--command-kind",
    "hyperlight": "--backend",
    "hyperlight.runtime": "--runtime",
    "hyperlight.driver": "--driver",
    "wslc": "--backend",
    "wslc/image": "--image",
    "wslc/imageTarPath": "--image-tar",
    "wslc/storagePath": "--storage",
}
"""Argument of `Policy` → the flag that says it."""


_WHAT = {"shell": "a shell line", "source": "source for a runtime"}


def add_machine_flags(parser: ArgumentParser) -> None:
    """The flags that stand for ``mxcOps.vm``."""
    add = parser.add_argument_group("the virtual machine of --backend vm, microvm or hyperlight").add_argument
    add(
        "--image",
        metavar="NAME",
        help="image that it boots; by default base, for microvm python; for wslc that of the container",
    )
    add("--vm-memory", type=int, metavar="MIB", help="its memory in MiB; by default as the image says")
    add("--vm-cpus", type=int, metavar="N", help="its processors; by default 1")
    add("--machine", choices=machine.MACHINES, help="type of machine; by default microvm")
    add(
        "--command-kind",
        choices=machine.COMMANDS,
        help="what CMD is: args (for vm by default), or one word: a shell line, source for python"
        " (microvm's default) or node",
    )
    add = parser.add_argument_group("the runtime of --backend hyperlight; CMD is its source").add_argument
    add("--runtime", choices=machine.RUNTIME_NAMES, help="by default python")
    add("--driver", choices=machine.DRIVERS, help="what runs it; auto is what works here")
    add = parser.add_argument_group("the container of --backend wslc").add_argument
    add("--image-tar", metavar="FILE", help="archive that its image is in; by default alpine:latest is meant")
    add("--pull", action="store_true", help="fetch the image when it is not here")
    add("--storage", metavar="DIR", help="keep what it writes there while it runs, not in memory")
    add("--shared-vm", action="store_true", help="in the one machine of all such containers of ours")


def add_accelerator_flag(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--accel",
        choices=machine.ACCELERATORS,
        help="what carries a virtual machine, whatever the config says; auto is what works here",
    )


def kind_from_flags(options: Namespace) -> str:
    """What the words after ``--`` are. To microvm a text is Python source, and so it is here."""
    if options.backend in machine.OF_RUNTIMES:
        return "source"
    said: str | None = options.command_kind
    return said or ("python" if options.backend == "microvm" else "args")


def command_from_flags(options: Namespace) -> str | list[str]:
    """The words after ``--``, or the one word that is a line or source.

    Raises `ConfigError` for several words where one is meant: to join them would be to guess.
    """
    words: list[str] = options.command
    kind = kind_from_flags(options)
    if kind == "args":
        return words
    from backends.virtual_machine import LANGUAGES, CommandKind

    if len(words) > 1:
        language = LANGUAGES.get(CommandKind(kind)) if kind != "source" else None
        what = f"{language.name} source" if language else _WHAT.get(kind, f"{kind} source")
        message = f"{what} is one word, and there are {len(words)} after --"
        fix = "put it into quotes"
        fix += ", or run a program with --command-kind args" if kind != "source" else ""
        raise ConfigError(Problem("conflicting_fields", "command", message, expected="one word", fix=fix))
    return words[0]


def machine_from_flags(options: Namespace) -> VirtualMachine | None:
    """What the flags say of the machine; None when they say nothing."""
    from backends.virtual_machine import CommandKind, VirtualMachine

    of_container = options.backend in machine.OF_CONTAINER_IMAGES
    vm = VirtualMachine(
        image_name="" if of_container else options.image or "",
        memory_mib=options.vm_memory,
        cpus=options.vm_cpus,
        machine=options.machine or "",
        command=CommandKind(options.command_kind) if options.command_kind else None,
    )
    return vm if vm != VirtualMachine() else None


def hyperlight_from_flags(options: Namespace) -> HyperlightSettings | None:
    """What the flags say of runtime and driver; None when they say nothing."""
    from backends.hyperlight_settings import Driver, HyperlightSettings, Runtime

    if options.runtime is None and options.driver is None:
        return None
    driver = None if options.driver in (None, "auto") else Driver(options.driver)
    return HyperlightSettings(Runtime(options.runtime or "python"), driver)


def container_from_flags(options: Namespace) -> WslcSettings | None:
    """What the flags say of a WSL container; None when they say nothing."""
    from backends.wslc_settings import DEFAULT_IMAGE, WslcSettings

    of_container = options.backend in machine.OF_CONTAINER_IMAGES
    settings = WslcSettings(
        image=(options.image if of_container else None) or DEFAULT_IMAGE,
        image_tar=options.image_tar or "",
        storage=options.storage or "",
        shared_vm=options.shared_vm,
        pull=options.pull,
    )
    return settings if settings != WslcSettings() else None


def with_accelerator(request: SandboxRequest, options: Namespace) -> SandboxRequest:
    """The request with what ``--accel`` says in place of what it says itself.

    Raises `PolicyRefused` for a containment without a virtual machine.
    """
    accelerator: str | None = options.accel
    if accelerator is None:
        return request
    if request.vm is None:
        containments = " or ".join(machine.CONTAINMENTS)
        message = f"{request.containment} starts no virtual machine that something could carry"
        raise PolicyRefused(
            Problem(
                "not_supported_by_backend", "--accel", message, fix=f"leave it out, or use {containments}"
            )
        )
    from backends.frozen import replace

    vm = replace(request.vm, accelerator="" if accelerator == "auto" else accelerator)
    return replace(request, vm=vm, pointers={**request.pointers, "accelerator": "--accel"})
