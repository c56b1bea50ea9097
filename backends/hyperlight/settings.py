"""What a request says of Hyperlight: the runtime that takes its command, and what is to run it (config-schema.md §3.1)."""

from __future__ import annotations

from enum import Enum

from backends.frozen import frozen

__all__ = ["Driver", "HyperlightSettings", "Runtime"]


class Runtime(Enum):
    """What the command is source for; the names are upstream's, what they mean is docs/hyperlight.md's."""

    AGENT = "agent"
    PYTHON = "python"
    PYTHON_SHELL = "python-shell"
    NODE = "node"
    BASH = "bash"
    DOTNET_JIT = "dotnet-jit"


class Driver(Enum):
    """NATIVE: Hyperlight's own packages, where a hypervisor carries them. QEMU: a clone of a warmed template."""

    NATIVE = "native"
    QEMU = "qemu"


@frozen
class HyperlightSettings:
    """`driver` None leaves it to what works here."""

    runtime: Runtime = Runtime.PYTHON
    driver: Driver | None = None
