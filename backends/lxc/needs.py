"""What a host must have for LXC containers, as data (host-prep.md §1, §2, §9).

Read by `mxc-ops prep host` (to satisfy), `mxc-ops doctor` (to check) and the docs (to list). The network
of a container is ours, as that of every sandbox: neither dnsmasq nor the distribution's lxc-net is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from backends.bubblewrap.needs import NEEDS as NEEDS_OF_BUBBLEWRAP
from backends.bubblewrap.needs import SUBORDINATE_COUNT
from backends.microvm.needs import image_needs
from backends.needs import EACH_USER, Need, NeedKind, chosen
from backends.network.needs import network_needs

__all__ = ["IMAGE", "NEEDS", "needs"]

IMAGE = "base"
"""The image of the store that a container's root is made of, unless another system is asked for."""

_OF_THE_LAUNCHER = (
    "package.compiler",
    "directory.helpers",
    "helper.launcher",
    "helper.agent",
    "ids.workloads",
)


def _launcher_needs() -> tuple[Need, ...]:
    """What starts containers, and their sessions, are the programs that bubblewrap has."""
    named = {need.identifier.partition(".")[2]: need for need in NEEDS_OF_BUBBLEWRAP}
    return tuple(replace(named[name], identifier=f"lxc.{name}") for name in _OF_THE_LAUNCHER)


NEEDS: tuple[Need, ...] = (
    *_launcher_needs(),
    Need(
        "lxc.package.tools",
        NeedKind.PACKAGE,
        "lxc-start makes every container",
        packages=dict.fromkeys(("debian", "fedora", "alpine", "arch", "suse"), ("lxc",)),
    ),
    Need(
        "lxc.package.idmap",
        NeedKind.PACKAGE,
        "newuidmap and newgidmap give a user's container the ids that /etc/subuid and /etc/subgid grant",
        # The other families have them in the package that useradd is in.
        packages={"debian": ("uidmap",), "alpine": ("shadow-uidmap",)},
        feature="rootless",
    ),
    Need(
        "lxc.ids.users",
        NeedKind.SUBORDINATE_IDS,
        "each user that the inventory names gets subordinate ids of their own",
        data={"user": EACH_USER, "count": SUBORDINATE_COUNT},
        feature="rootless",
    ),
    Need(
        "lxc.sysctl.userns-count",
        NeedKind.KERNEL_SETTING,
        "each container is a user namespace, and 0 forbids them",
        data={"key": "user.max_user_namespaces", "wanted": ">=1024"},
    ),
    Need(
        "lxc.sysctl.userns-clone",
        NeedKind.KERNEL_SETTING,
        "user namespaces made by users (a switch that only Debian-style kernels have)",
        data={"key": "kernel.unprivileged_userns_clone", "wanted": "1"},
        feature="rootless",
    ),
    *network_needs("lxc"),
    *image_needs("lxc", IMAGE),
    Need(
        "lxc.package.download",
        NeedKind.PACKAGE,
        "LXC's template fetches images of other distributions by them, for mxc-ops image download",
        packages={"debian": ("wget", "xz-utils")},
        feature="build",
    ),
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
