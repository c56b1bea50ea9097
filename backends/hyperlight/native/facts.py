"""What a plan of the native driver depends on, read from the host."""

from __future__ import annotations

from collections.abc import Mapping

from backends.bubblewrap.facts import BaselineEntry, Helper
from backends.frozen import frozen
from backends.linux.cgroups import CgroupFacts
from backends.linux.uid_range import UidRange

__all__ = ["LIBRARIES", "PACKAGES", "Device", "NativeFacts", "Packages", "Place"]

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
"""Where distributions keep shared libraries: the worker sees them whatever the interpreter is."""

PACKAGES = "/packages"
"""Where the worker finds the packages."""


@frozen
class Place:
    """A file or folder of the host's that the worker reads, at `inside`; `object` is its (device, inode)."""

    path: str
    inside: str
    object: tuple[int, int]


@frozen
class Packages:
    """Hyperlight's packages in one Python environment.

    `python` runs in that environment; `interpreter` is the program itself, without links; `versions` are pins
    as of `needs.REQUIREMENTS`. `places` are the interpreter, its library and the packages. `module` is where
    the worker finds the program that runs in the machine.
    """

    environment: str
    python: str
    interpreter: str
    versions: tuple[str, ...]
    places: tuple[Place, ...]
    module: str


@frozen
class Device:
    """A hypervisor's device: `mode` are its permissions, `number` is what it is a node of.

    `usable` tells whether the caller may open it; `made` tells one node of it from a later one.
    """

    path: str
    uid: int
    gid: int
    mode: int
    number: int
    usable: bool
    made: str


@frozen
class NativeFacts:
    """`why` is why no sandbox of the packages runs here, "" once one has been seen to.

    Where something is missing, what depends on it is None or "". `helper` is bubblewrap, and `libraries` what
    programs need to start. `caller` is the (uid, gid) that we run as.
    """

    why: str
    packages: Packages | None
    device: Device | None
    helper: Helper | None
    launcher: str
    launcher_key: str
    landlock_abi: int
    libraries: tuple[BaselineEntry, ...]
    caller: tuple[int, int]
    uid_range: UidRange | None
    cgroups: CgroupFacts
    seccomp: Mapping[str, str]

    @property
    def baseline_trees(self) -> tuple[str, ...]:
        """Nothing of the host is in a machine."""
        return ()

    @property
    def own_paths(self) -> tuple[str, ...]:
        """A machine of the packages' has no files at all."""
        return ()
