"""What a request says of a virtual machine, and the image that it boots."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from backends.frozen import frozen

__all__ = [
    "CPUS",
    "LANGUAGES",
    "MEMORY_MIB",
    "SHELL",
    "CommandKind",
    "Image",
    "Language",
    "System",
    "VirtualMachine",
    "argument_vector",
]


@frozen
class System:
    """The system that an image's root file system has, or that is asked for.

    `distribution` as LXC's image server and os-release(5) spell it; `releases` are all the names of its
    release, as ``("bookworm", "12")``. Both are empty where nothing is told, or asked.
    """

    distribution: str = ""
    releases: tuple[str, ...] = ()

    def serves(self, wanted: System) -> bool:
        """Whether it is what is wanted, by any of the names of its release."""
        return self.distribution == wanted.distribution and not set(self.releases).isdisjoint(wanted.releases)

    def __str__(self) -> str:
        return " ".join((self.distribution, *self.releases[:1]))


@frozen
class Image:
    """A bootable image, found by whoever asks for a run: a backend is given one and never looks one up.

    `kernel`, `initrd` and `rootfs` are host paths ("" without a root file system: the initrd is all there
    is), `rootfs_format` is ``erofs`` or ``squashfs``, `key` identifies what it was made of and `content`
    what it is now (an imported one's key is a claim, its content is not), `zygote` names the interpreter that
    waits for source, ``python`` or ``node`` ("" for none), `warm_up` is run before a template is made.
    `kernel` and `initrd` are "" where there is only a root, for containers; `system` is what is in it.
    """

    name: str
    key: str
    content: str
    kernel: str
    initrd: str
    rootfs: str
    rootfs_format: str
    command_line: str
    memory_mib: int
    zygote: str
    warm_up: str = ""
    system: System = System()


class CommandKind(Enum):
    """What a command is in a virtual machine: a line for /bin/sh, an argument vector, or source.

    Python and JavaScript are taken by an interpreter that waits in the image, scripts of bash by that, and
    .NET's by the image's program ``dotnet-jit``.
    """

    SHELL = "shell"
    ARGS = "args"
    PYTHON = "python"
    NODE = "node"
    BASH = "bash"
    DOTNET_JIT = "dotnet-jit"


@frozen
class Language:
    """What source is written in.

    `words` are what its interpreter takes for the command's own name, `line` is a program that prints a line.
    """

    name: str
    words: tuple[str, ...]
    line: str


LANGUAGES: Mapping[CommandKind, Language] = {
    CommandKind.PYTHON: Language("Python", ("-c",), "print()"),
    CommandKind.NODE: Language("JavaScript", ("node",), "console.log()"),
}
"""Of the kinds that are source, each for the waiting interpreter of its name (`Image.zygote`)."""

# A distribution's kernel with its initrd does not come up in less; more than the most is rather a slip than a
# sandbox. Each processor is a thread of the host.
MEMORY_MIB = (96, 65536)
CPUS = (1, 64)
"""Least and greatest, both allowed."""

SHELL = ("/bin/sh", "-c")
_TAKEN_BY: Mapping[CommandKind, tuple[str, ...]] = {
    CommandKind.SHELL: SHELL,
    CommandKind.BASH: ("/bin/bash", "-c"),
    CommandKind.DOTNET_JIT: ("dotnet-jit", "-c"),
}


def argument_vector(kind: CommandKind, text: str | None, args: tuple[str, ...]) -> tuple[str, ...]:
    """What is executed for a command of this kind, which is `text` or `args`; of source that a waiting
    interpreter takes, what that finds as its arguments."""
    if kind is CommandKind.ARGS:
        return args
    if kind in LANGUAGES:
        return (*LANGUAGES[kind].words, *args)
    return (*_TAKEN_BY[kind], text or "")


@frozen
class VirtualMachine:
    """What a document says of the machine (``mxcOps.vm``); None and "" leave it to the backend.

    `image_name` is a name of the image store, `image` what it stands for once it was looked up.
    `accelerator`: ``kvm`` or ``tcg``; `machine`: ``microvm`` or ``q35``.
    """

    image_name: str = ""
    image: Image | None = None
    memory_mib: int | None = None
    cpus: int | None = None
    accelerator: str = ""
    machine: str = ""
    command: CommandKind | None = None
