"""What a container's plan depends on, read from the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from backends.frozen import frozen
from backends.guest_files.reserved import OWN_PATHS, SYSTEM_PATHS
from backends.inside.protocol import UserNamespace
from backends.linux.cgroups import NO_CGROUPS, CgroupFacts
from backends.linux.uid_range import UidRange

if TYPE_CHECKING:
    from backends.network.facts import NetworkFacts

__all__ = ["FIX", "LxcFacts"]

FIX = "mxc-ops prep host --backend lxc --yes"


@frozen
class LxcFacts:
    """`starter` is the path of lxc-start, `version` what it says it is.

    `apparmor` is the profile that a container gets, "" for none; `apparmor_on`: the kernel would take one.
    `caller` is the (uid, gid) that we run as, `users` the namespace of one who is not root, `seccomp` maps
    profile names to the hash of their filter. `network` is there where the request has one.
    """

    starter: str
    version: str
    launcher: str
    launcher_key: str
    landlock_abi: int
    apparmor: str
    apparmor_on: bool
    caller: tuple[int, int]
    uid_range: UidRange | None
    users: UserNamespace | None = None
    cgroups: CgroupFacts = NO_CGROUPS
    seccomp: Mapping[str, str] | None = None
    network: NetworkFacts | None = None

    @property
    def baseline_trees(self) -> tuple[str, ...]:
        """Nothing of the host is in a container but what the policy grants."""
        return ()

    @property
    def own_paths(self) -> tuple[str, ...]:
        """What every container has of its own: no policy can put a link there."""
        return (*OWN_PATHS, *SYSTEM_PATHS)
