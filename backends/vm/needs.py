"""What a host must have for runs in virtual machines, as data (host-prep.md §1).

Runs take what microVMs take. The feature ``libvirt`` is for machines that outlive runs: they are kept by the
host's own libvirt, which no run asks anything of.
"""

from __future__ import annotations

from collections.abc import Iterable

from backends.microvm.needs import MACHINES, machine_needs
from backends.needs import Need, NeedKind, chosen

__all__ = ["IMAGE", "LIBVIRT", "NAME", "NEEDS", "needs"]

IMAGE = "base"
"""The image of the store that machines start from, unless another is named."""
LIBVIRT = "libvirt"
"""The feature."""
NAME = "mxc-ops"
"""Of our network and of our storage pool."""
_POOL_PATH = "/var/lib/mxc-ops/libvirt"
# Next to the containers' 10.187.0.0/22. By the UUIDs ours are told from others of the same name.
_NETWORK = f"""\
<network>
  <name>{NAME}</name>
  <uuid>148e28cd-3270-4d51-8917-635585a389ec</uuid>
  <forward mode="nat"/>
  <bridge name="mxcvirbr0" stp="on" delay="0"/>
  <ip address="10.187.4.1" netmask="255.255.255.0">
    <dhcp>
      <range start="10.187.4.2" end="10.187.4.254"/>
    </dhcp>
  </ip>
</network>
"""
_POOL = f"""\
<pool type="dir">
  <name>{NAME}</name>
  <uuid>d360bf2e-bf07-4bd6-a1b6-ac4a86166697</uuid>
  <target>
    <path>{_POOL_PATH}</path>
  </target>
</pool>
"""
NEEDS: tuple[Need, ...] = (
    *machine_needs("vm", IMAGE),
    Need(
        "vm.package.libvirt",
        NeedKind.PACKAGE,
        "libvirt's daemons with their QEMU, network and storage drivers, virsh, and the Python module",
        packages={
            # The daemon's package alone is not enough: without the user that -system makes, it ends at once.
            "debian": ("libvirt-daemon-system", "libvirt-clients", "python3-libvirt", "dnsmasq-base"),
            "fedora": (
                *("libvirt-daemon-driver-qemu", "libvirt-daemon-driver-network"),
                *("libvirt-daemon-driver-storage-core", "libvirt-client", "python3-libvirt"),
            ),
            "alpine": ("libvirt-daemon", "libvirt-qemu", "libvirt-client", "py3-libvirt"),
            "arch": ("libvirt", "libvirt-python", "dnsmasq", "iptables"),
            "suse": (
                *("libvirt-daemon-driver-qemu", "libvirt-daemon-driver-network"),
                *("libvirt-daemon-driver-storage-core", "libvirt-client", "python3-libvirt-python"),
            ),
        },
        feature=LIBVIRT,
        machines=MACHINES,
    ),
    Need(
        "vm.service.log",
        NeedKind.SERVICE,
        "keeps what the consoles of virtual machines print, also while libvirt restarts",
        data={"service": "virtlogd", "daemonize": "-d"},
        feature=LIBVIRT,
        machines=MACHINES,
    ),
    # One daemon for everything, or one for each purpose, by distribution (libvirt: daemons.html).
    Need(
        "vm.service.qemu",
        NeedKind.SERVICE,
        "starts, watches and ends virtual machines",
        data={"service": "libvirtd", "otherwise": ["virtqemud"], "daemonize": "-d"},
        feature=LIBVIRT,
        machines=MACHINES,
    ),
    Need(
        "vm.service.network",
        NeedKind.SERVICE,
        "brings the network of virtual machines up, also after a restart of the host",
        data={"service": "libvirtd", "otherwise": ["virtnetworkd"], "daemonize": "-d"},
        feature=LIBVIRT,
        machines=MACHINES,
    ),
    Need(
        "vm.service.storage",
        NeedKind.SERVICE,
        "knows the disk images of virtual machines",
        data={"service": "libvirtd", "otherwise": ["virtstoraged"], "daemonize": "-d"},
        feature=LIBVIRT,
        machines=MACHINES,
    ),
    Need(
        "vm.sysctl.ip-forward",
        NeedKind.KERNEL_SETTING,
        "virtual machines reach other networks through the host; libvirt would switch it on by itself, and "
        "never off",
        data={"key": "net.ipv4.ip_forward", "wanted": "1", "kernel_default": "0"},
        feature=LIBVIRT,
        machines=MACHINES,
    ),
    Need(
        "vm.network",
        NeedKind.LIBVIRT_NETWORK,
        "a network of our own, with addresses for virtual machines and NAT to the outside",
        data={"network": NAME, "xml": _NETWORK},
        feature=LIBVIRT,
        machines=MACHINES,
        undone_with=("vm.package.libvirt",),
    ),
    Need(
        "vm.pool",
        NeedKind.LIBVIRT_POOL,
        "a directory of our own for disk images",
        data={"pool": NAME, "path": _POOL_PATH, "xml": _POOL},
        feature=LIBVIRT,
        machines=MACHINES,
        undone_with=("vm.package.libvirt",),
    ),
)


def needs(features: Iterable[str] = ()) -> tuple[Need, ...]:
    """What is always needed and what the features need, in the order in which it must be satisfied."""
    return chosen(NEEDS, features)
