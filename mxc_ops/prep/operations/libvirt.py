"""Networks and storage pools of the host's own libvirt."""

from __future__ import annotations

from backends.vm.on_host import SYSTEM
from mxc_ops.prep.operations.common import Commands, follow, operation


@operation
def network(network: str, xml: str, uri: str = SYSTEM, item: str = "") -> Commands:
    """Have a virtual network defined as in `xml`, active, and started with libvirt."""
    yield from follow("libvirt.network", item, network=network, xml=xml, uri=uri)


@operation
def pool(pool: str, path: str, xml: str, uri: str = SYSTEM, item: str = "") -> Commands:
    """Have a storage pool in the directory `path` defined as in `xml`, active, and started with libvirt."""
    yield from follow("libvirt.pool", item, pool=pool, path=path, xml=xml, uri=uri)
