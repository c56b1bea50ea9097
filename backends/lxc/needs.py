"""What a host must have for LXC containers, as data (host-prep.md §1, §2, §9).

Read by `mxc-ops prep host` (to satisfy), `mxc-ops doctor` (to check) and the docs (to list). Containers get
static addresses on a bridge of ours, so neither dnsmasq nor the distribution's lxc-net is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from backends.bubblewrap.needs import NEEDS as NEEDS_OF_BUBBLEWRAP
from backends.bubblewrap.needs import SUBORDINATE_COUNT
from backends.microvm.needs import image_needs
from backends.needs import EACH_USER, Need, NeedKind, chosen

__all__ = ["ADDRESS", "BRIDGE", "IMAGE", "NEEDS", "TABLE", "needs"]

BRIDGE = "mxcbr0"
# As many addresses as a bridge has ports (1023, Linux: BR_MAX_PORTS), from the private range that is largest
# (RFC 1918), apart from what other tools take of it: 10.0.2 (QEMU, slirp), 10.0.3 (lxc-net), 10.8 (OpenVPN),
# 10.42 and 10.43 (k3s), 10.88 (podman), 10.96 and 10.244 (Kubernetes).
ADDRESS = "10.187.0.1/22"
TABLE = "mxc-ops-lxc"
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
        "lxc.package.network",
        NeedKind.PACKAGE,
        "ip makes the bridge, nft its NAT",
        packages={
            "debian": ("iproute2", "nftables"),
            "fedora": ("iproute", "nftables"),
            "alpine": ("iproute2", "nftables"),
            "arch": ("iproute2", "nftables"),
            "suse": ("iproute2", "nftables"),
        },
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
    Need(
        "lxc.sysctl.ip-forward",
        NeedKind.KERNEL_SETTING,
        "what a container sends is routed by the host; our table lets nothing in that it did not ask for",
        data={"key": "net.ipv4.ip_forward", "wanted": "1", "kernel_default": "0"},
    ),
    Need(
        "lxc.bridge",
        NeedKind.BRIDGE,
        "containers are attached to it, and reach other networks by NAT",
        data={"bridge": BRIDGE, "address": ADDRESS, "table": TABLE},
        undone_with=("lxc.package.network",),
    ),
    # Between two containers on one bridge nothing is routed: rules in the kernel's IP hooks see it only when
    # bridged frames are handed to them (backends.md §2.3). What is routed they see anyway.
    Need(
        "lxc.module.br-netfilter",
        NeedKind.KERNEL_MODULE,
        "hands frames between containers to the rules that hold a network policy",
        data={"module": "br_netfilter", "proof": "/proc/sys/net/bridge"},
        feature="network",
    ),
    Need(
        "lxc.sysctl.bridge-ipv4",
        NeedKind.KERNEL_SETTING,
        "IPv4 between containers is seen by the rules that hold a network policy",
        data={"key": "net.bridge.bridge-nf-call-iptables", "wanted": "1"},
        feature="network",
    ),
    Need(
        "lxc.sysctl.bridge-ipv6",
        NeedKind.KERNEL_SETTING,
        "IPv6 between containers is seen by the rules that hold a network policy",
        data={"key": "net.bridge.bridge-nf-call-ip6tables", "wanted": "1"},
        feature="network",
    ),
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
