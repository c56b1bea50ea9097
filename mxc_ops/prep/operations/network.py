"""Networks of this host's own."""

from __future__ import annotations

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def bridge(
    bridge: str, address: str, table: str, manager: str = "none", address6: str = "", item: str = ""
) -> Commands:
    """Have a network bridge, and NAT for what is attached to it; the host itself it does not reach.

    Parameters
    ----------
    address: with its prefix length, such as ``10.0.0.1/24``; `address6` in IPv6, while the host forwards it.
    table: of nftables, family inet.
    manager: of services, which brings it back after a restart: systemd, openrc or none.
    """
    arguments = {"bridge": bridge, "address": address, "table": table, "manager": manager}
    yield from follow("network.bridge", item, **arguments, address6=address6)


@operation
def ipv6_forwarding(key: str, wanted: str, kernel_default: str, item: str = "") -> Commands:
    """Have the host forward IPv6, where it has a way out that this does not cost it.

    Parameters
    ----------
    key, wanted, kernel_default: as of a kernel setting.
    """
    arguments = {"key": key, "wanted": wanted, "kernel_default": kernel_default}
    yield from follow("network.ipv6_forwarding", item, **arguments)
