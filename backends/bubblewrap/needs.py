"""What a host must have for bubblewrap sandboxes, as data (host-prep.md §1, §9).

Read by `mxc-ops prep host` (to satisfy), `mxc-ops doctor` (to check) and the docs (to list). The feature
``landlock`` needs nothing of its own: it is the kernel's.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.inside import toolchain
from backends.needs import EACH_USER, Need, NeedKind, chosen
from backends.network.needs import network_needs

__all__ = ["APPARMOR_PROFILE", "NEEDS", "SUBORDINATE_COUNT", "needs"]

APPARMOR_PROFILE = "/etc/apparmor.d/mxc-ops-launcher"
SUBORDINATE_COUNT = 65_536

_HELPERS = "/usr/local/lib/mxc-ops/helpers"
# The range of workload ids lies above what systemd gives to containers (524288 … 1878982656) and below 2^31,
# where some tools misread ids (systemd: UIDS-GIDS.md).
NEEDS: tuple[Need, ...] = (
    Need(
        "bubblewrap.package.bwrap",
        NeedKind.PACKAGE,
        "bwrap makes the namespaces and mounts of every sandbox",
        packages={
            "debian": ("bubblewrap",),
            "fedora": ("bubblewrap",),
            "alpine": ("bubblewrap",),
            "arch": ("bubblewrap",),
            "suse": ("bubblewrap",),
        },
    ),
    Need(
        "bubblewrap.package.compiler",
        NeedKind.PACKAGE,
        "what of ours runs inside is compiled on the host",
        packages=toolchain.PACKAGES,
        feature="compiler",
    ),
    Need(
        "bubblewrap.directory.helpers",
        NeedKind.DIRECTORY,
        "compiled helpers are kept here, by the hash of their source, for all users",
        data={"path": _HELPERS},
    ),
    Need(
        "bubblewrap.helper.launcher",
        NeedKind.HELPER,
        "sets limits, Landlock and the last seccomp filter inside, then starts the workload",
        data={"store": _HELPERS, "program": "launcher"},
    ),
    Need(
        "bubblewrap.helper.agent",
        NeedKind.HELPER,
        "the first program of a session's sandbox: it starts the commands there, and brings files in and out",
        data={"store": _HELPERS, "program": "agent"},
        feature="sessions",
    ),
    Need(
        "bubblewrap.ids.workloads",
        NeedKind.ID_RANGE,
        "started by root, each sandbox gets a host uid of its own, never root's",
        data={"path": "/etc/mxc-ops/host.json", "wanted": "1900000000:4096"},
    ),
    Need(
        "bubblewrap.sysctl.userns-clone",
        NeedKind.KERNEL_SETTING,
        "unprivileged user namespaces (a switch that only Debian-style kernels have)",
        data={"key": "kernel.unprivileged_userns_clone", "wanted": "1"},
    ),
    Need(
        "bubblewrap.sysctl.userns-count",
        NeedKind.KERNEL_SETTING,
        "each sandbox makes user namespaces, and 0 forbids them",
        data={"key": "user.max_user_namespaces", "wanted": ">=1024"},
    ),
    Need(
        "bubblewrap.apparmor.launcher",
        NeedKind.APPARMOR_PROFILE,
        "where AppArmor restricts user namespaces (Ubuntu 24.04 and later), what our launcher starts needs a "
        "profile that permits them; the host-wide switch stays on",
        data={
            "switch": "kernel.apparmor_restrict_unprivileged_userns",
            "path": APPARMOR_PROFILE,
            "program": f"{_HELPERS}/*/launcher",
        },
    ),
    *network_needs("bubblewrap"),
    Need(
        "bubblewrap.package.idmap",
        NeedKind.PACKAGE,
        "newuidmap and newgidmap give a user's sandbox the ids that /etc/subuid and /etc/subgid grant",
        # The other families have them in the package that useradd is in, which also grants the ids.
        packages={"debian": ("uidmap",), "alpine": ("shadow-uidmap",)},
        feature="rootless",
    ),
    Need(
        "bubblewrap.ids.users",
        NeedKind.SUBORDINATE_IDS,
        "each user that the inventory names gets subordinate ids of their own",
        data={"user": EACH_USER, "count": SUBORDINATE_COUNT},
        feature="rootless",
    ),
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
