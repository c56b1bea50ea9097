"""What a request says of Hyperlight: what takes its command, and what runs that (config-schema.md §3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from backends.frozen import frozen
from backends.virtual_machine import CommandKind

__all__ = ["RUNTIMES", "Driver", "HyperlightSettings", "Runtime", "RuntimeKind"]


class Runtime(Enum):
    """What a command is source for. The names are upstream's, their meaning is ours (docs/hyperlight.md)."""

    AGENT = "agent"
    PYTHON = "python"
    PYTHON_SHELL = "python-shell"
    NODE = "node"
    BASH = "bash"
    DOTNET_JIT = "dotnet-jit"


@frozen
class RuntimeKind:
    """A runtime as a machine has it: the image that it starts from, and what a command is there."""

    image: str
    command: CommandKind


RUNTIMES: Mapping[Runtime, RuntimeKind] = {
    Runtime.AGENT: RuntimeKind("agent", CommandKind.SHELL),
    Runtime.PYTHON: RuntimeKind("python", CommandKind.PYTHON),
    Runtime.PYTHON_SHELL: RuntimeKind("python", CommandKind.SHELL),
    Runtime.NODE: RuntimeKind("node", CommandKind.NODE),
    Runtime.BASH: RuntimeKind("base", CommandKind.BASH),
    Runtime.DOTNET_JIT: RuntimeKind("dotnet-jit", CommandKind.DOTNET_JIT),
}


class Driver(Enum):
    """NATIVE: Hyperlight's own packages, where a hypervisor carries them. QEMU: clones of warm templates."""

    NATIVE = "native"
    QEMU = "qemu"


@frozen
class HyperlightSettings:
    """`driver` None leaves it to what works here; `why` says how it was chosen, once it was."""

    runtime: Runtime = Runtime.PYTHON
    driver: Driver | None = None
    why: str = ""
