"""What a virtual machine's plan depends on, read from the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from backends.bubblewrap.facts import BaselineEntry, Helper
from backends.frozen import frozen
from backends.guest_files.places import GuestPlaces
from backends.guest_files.reserved import OWN_PATHS, SYSTEM_PATHS
from backends.linux.cgroups import CgroupFacts
from backends.linux.uid_range import UidRange
from backends.qemu.choice import QemuProgram
from backends.qemu.host_values import HostValues
from backends.qemu.machine import MachineKind

if TYPE_CHECKING:
    from backends.network.facts import NetworkFacts

__all__ = ["VmFacts"]


@frozen
class VmFacts:
    """`accelerator` and `kind` are already chosen; `helper` and `launcher` confine QEMU.

    `caller` is the (uid, gid) that we run as, `groups` all groups of it, `seccomp` maps profile names to the
    hash of their filter. `network` is there where the request has one. `shown_at` is where the machine has
    what is granted.
    """

    qemu: QemuProgram
    host: HostValues
    accelerator: str
    kind: MachineKind
    helper: Helper
    launcher: str
    launcher_key: str
    places: tuple[BaselineEntry, ...]
    caller: tuple[int, int]
    groups: tuple[int, ...]
    uid_range: UidRange | None
    cgroups: CgroupFacts
    seccomp: Mapping[str, str]
    network: NetworkFacts | None = None
    shown_at: GuestPlaces = GuestPlaces()

    @property
    def baseline_trees(self) -> tuple[str, ...]:
        """Nothing of the host is in a machine but what the policy grants."""
        return ()

    @property
    def own_paths(self) -> tuple[str, ...]:
        """What every machine has of its own: no policy can put a link there."""
        return (*OWN_PATHS, *SYSTEM_PATHS)
