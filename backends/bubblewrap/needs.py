"""What a host must have for bubblewrap sandboxes, as data (host-prep.md §1, §9).

Read by `mxc-ops prep host` (to satisfy), `mxc-ops doctor` (to check) and the docs (to list).
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.needs import Need, NeedKind

__all__ = ["NEEDS", "needs"]

# The range lies above what systemd gives to containers (524288 … 1878982656) and below 2^31, where some tools
# misread ids (systemd: UIDS-GIDS.md).
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
        "the launcher that runs inside is compiled on the host",
        packages={
            "debian": ("gcc", "libc6-dev", "musl-tools"),
            "fedora": ("gcc", "glibc-headers", "kernel-headers", "musl-gcc", "musl-libc-static"),
            "alpine": ("gcc", "musl-dev", "linux-headers"),
            "arch": ("gcc", "linux-api-headers", "musl"),
            "suse": ("gcc", "glibc-devel", "glibc-devel-static", "linux-glibc-devel"),
        },
    ),
    Need(
        "bubblewrap.directory.helpers",
        NeedKind.DIRECTORY,
        "compiled helpers are kept here, by the hash of their source, for all users",
        value="/usr/local/lib/mxc-ops/helpers",
    ),
    Need(
        "bubblewrap.helper.launcher",
        NeedKind.HELPER,
        "sets limits, Landlock and the last seccomp filter inside, then starts the workload",
        key="/usr/local/lib/mxc-ops/helpers",
        value="launcher",
    ),
    Need(
        "bubblewrap.ids.workloads",
        NeedKind.ID_RANGE,
        "started by root, each sandbox gets a host uid of its own, never root's",
        key="/etc/mxc-ops/host.json",
        value="1900000000:4096",
    ),
    Need(
        "bubblewrap.sysctl.userns-clone",
        NeedKind.KERNEL_SETTING,
        "unprivileged user namespaces (a switch that only Debian-style kernels have)",
        key="kernel.unprivileged_userns_clone",
        value="1",
    ),
    Need(
        "bubblewrap.sysctl.userns-count",
        NeedKind.KERNEL_SETTING,
        "each sandbox makes user namespaces, and 0 forbids them",
        key="user.max_user_namespaces",
        value=">=1024",
    ),
    Need(
        "bubblewrap.apparmor.bwrap",
        NeedKind.APPARMOR_PROFILE,
        "where AppArmor restricts user namespaces (Ubuntu 24.04 and later), bwrap needs a profile that "
        "permits them; the host-wide switch stays on",
        key="kernel.apparmor_restrict_unprivileged_userns",
        value="/etc/apparmor.d/mxc-ops-bwrap",
    ),
)


def needs(features: Iterable[str] = ("base",)) -> tuple[Need, ...]:
    """The needs of the given features, in the order in which they must be satisfied."""
    wanted = frozenset(features)
    return tuple(need for need in NEEDS if need.feature in wanted)
