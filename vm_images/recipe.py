"""What an image is to be made of, as data."""

from __future__ import annotations

from enum import Enum

from backends.frozen import frozen

__all__ = ["ALWAYS_LOADED", "COMMAND_LINE", "Format", "OwnFile", "Recipe"]

COMMAND_LINE = (
    "panic=-1 quiet reboot=t random.trust_cpu=on mitigations=off nokaslr no_timer_check tsc=reliable"
    " cryptomgr.notests 8250.nr_uarts=0 console=hvc0 lsm=landlock psi=0"
)
"""What the kernel of every image is told; what depends on a host is added by whoever boots it (lab §1)."""


class Format(Enum):
    """The file system that an image's root is packed as; NONE: the initrd is all there is."""

    NONE = "none"
    EROFS = "erofs"
    SQUASHFS = "squashfs"


ALWAYS_LOADED = {
    Format.NONE: (),
    Format.EROFS: ("erofs", "overlay"),
    Format.SQUASHFS: ("squashfs", "overlay"),
}
"""Kernel modules that mounting the root takes, whatever the recipe names."""


@frozen
class OwnFile:
    """A file of the recipe's own: where it is in the guest, what is in it, its permissions."""

    path: str
    content: bytes
    mode: int = 0o644


@frozen
class Recipe:
    """One image.

    Parameters
    ----------
    name: what it is called in the store.
    kernel: Debian's kernel package; one that only depends on the current kernel will do.
    modules: kernel modules to load, without what they depend on and without the root file system's.
    packages: Debian packages of the root file system, beside the essential ones.
    files: put on top, in the root file system or, without one, in the initrd.
    agent: a static program to be process 1 instead of the one made from our sources; empty for ours.
    zygote: the interpreter that is started at boot and waits: a name of `INTERPRETERS`; "" for none.
    busybox: whether the initrd has busybox with all its applets.
    memory_mib: what a machine of it needs, unless told otherwise.
    warm_up: a line for the guest's /bin/sh, run before a template is made.
    requirements: a hash-pinned requirements file's text, for Python packages from an index; "" for none.
    """

    name: str
    description: str
    kernel: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    format: Format
    memory_mib: int
    files: tuple[OwnFile, ...] = ()
    agent: bytes = b""
    zygote: str = ""
    busybox: bool = False
    warm_up: str = ""
    requirements: str = ""

    @property
    def all_modules(self) -> tuple[str, ...]:
        """The modules to load, the root file system's among them."""
        return tuple(dict.fromkeys((*self.modules, *ALWAYS_LOADED[self.format])))
