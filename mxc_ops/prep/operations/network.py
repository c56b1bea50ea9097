"""Networks of this host's own."""

from __future__ import annotations

from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def bridge(bridge: str, address: str, table: str, manager: str = "none", item: str = "") -> Commands:
    """Have a network bridge with an IPv4 address, and NAT for what is attached to it.

    Parameters
    ----------
    address: with its prefix length, such as ``10.0.0.1/24``.
    table: of nftables, family inet.
    manager: of services, which brings it back after a restart: systemd, openrc or none.
    """
    yield from follow("network.bridge", item, bridge=bridge, address=address, table=table, manager=manager)
