"""What a host must have for sandboxes with a network, as data: the same for every backend (host-prep.md §1).

Root's sandboxes are attached to a bridge of ours, a user's are connected by pasta or slirp4netns; the rules
of each are held by nft in a network namespace of its own.
"""

from __future__ import annotations

from backends.needs import Need, NeedKind
from backends.network.facts import BRIDGE

__all__ = ["ADDRESS", "ADDRESS6", "FEATURE", "TABLE", "network_needs"]

FEATURE = "network"
# As many addresses as a bridge has ports (1023, Linux: BR_MAX_PORTS), from the private range that is largest
# (RFC 1918), apart from what other tools take of it: 10.0.2 (QEMU, slirp), 10.0.3 (lxc-net), 10.8 (OpenVPN),
# 10.42 and 10.43 (k3s), 10.88 (podman), 10.96 and 10.244 (Kubernetes).
ADDRESS = "10.187.0.1/22"
ADDRESS6 = "fdb5:6d78:62::1/64"
"""Of a network of our own (RFC 4193)."""
TABLE = "mxc-ops-lxc"
"""Of nftables, on the host; it has kept the name of those who had it first."""

_IN_EVERY_FAMILY = ("nftables", "iproute2", "passt")
_PACKAGE = "package"


def network_needs(backend: str, machines: tuple[str, ...] = ()) -> tuple[Need, ...]:
    """What the sandboxes of a backend need that have a network, in the order in which it must be satisfied.

    Parameters
    ----------
    backend: whose names the needs get; what two of them need alike is made once.
    machines: see `Need`.
    """
    return tuple(
        Need(
            f"{backend}.{FEATURE}.{name}",
            kind,
            why,
            packages=_PACKAGES if kind is NeedKind.PACKAGE else {},
            data=data,
            feature=FEATURE,
            machines=machines,
            undone_with=(f"{backend}.{FEATURE}.{_PACKAGE}",) if kind is NeedKind.BRIDGE else (),
        )
        for name, kind, why, data in _NEEDS
    )


_PACKAGES = {
    "debian": _IN_EVERY_FAMILY,
    # Ubuntu 22.04, and what is made from it, is the one that has a new enough nft, and no passt.
    "jammy": ("nftables", "iproute2", "slirp4netns"),
    "fedora": ("nftables", "iproute", "passt"),
    "alpine": _IN_EVERY_FAMILY,
    "arch": _IN_EVERY_FAMILY,
    "suse": _IN_EVERY_FAMILY,
}
_NEEDS: tuple[tuple[str, NeedKind, str, dict[str, str]], ...] = (
    (
        _PACKAGE,
        NeedKind.PACKAGE,
        "nft holds the rules of a sandbox's network, ip makes the bridge of root's, pasta or slirp4netns "
        "carries the packets of a user's",
        {},
    ),
    # nf_tables itself is loaded when nft is first used, and a kernel that has it built in does not show it.
    (
        "module.conntrack",
        NeedKind.KERNEL_MODULE,
        "rules tell answers from new connections by it",
        {"module": "nf_conntrack", "proof": "/proc/sys/net/netfilter/nf_conntrack_max"},
    ),
    (
        "device.tun",
        NeedKind.DEVICE,
        "pasta, slirp4netns and the gate of a machine open it as the user; what may be done with it is "
        "decided by the network namespace",
        {"path": "/dev/net/tun", "group": ""},
    ),
    (
        "sysctl.netns-count",
        NeedKind.KERNEL_SETTING,
        "each sandbox with a network makes a network namespace, and 0 forbids them",
        {"key": "user.max_net_namespaces", "wanted": ">=1024"},
    ),
    (
        "sysctl.ping-groups",
        NeedKind.KERNEL_SETTING,
        "who is in one of these groups may send echo requests, as pasta and slirp4netns do for a sandbox",
        {"key": "net.ipv4.ping_group_range", "wanted": "0 2147483647", "kernel_default": "1 0"},
    ),
    (
        "sysctl.ip-forward",
        NeedKind.KERNEL_SETTING,
        "what a sandbox of root's sends is routed by the host; our table lets nothing in but answers",
        {"key": "net.ipv4.ip_forward", "wanted": "1", "kernel_default": "0"},
    ),
    (
        "sysctl.ipv6-forward",
        NeedKind.IPV6_FORWARDING,
        "the same in IPv6, where the host has a way out in it that forwarding does not cost it",
        {"key": "net.ipv6.conf.all.forwarding", "wanted": "1", "kernel_default": "0"},
    ),
    (
        "bridge",
        NeedKind.BRIDGE,
        "sandboxes of root's are attached to it, and reach other networks by NAT, and not the host itself",
        {"bridge": BRIDGE, "address": ADDRESS, "address6": ADDRESS6, "table": TABLE},
    ),
)
