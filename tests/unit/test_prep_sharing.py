"""What several backends need alike, and who relies on whose record."""

from __future__ import annotations

from typing import Any

import pytest

from mxc_ops.prep.receipts import Receipt
from mxc_ops.prep.sharing import needed_by_others

KVM = Receipt("microvm.device.kvm", "devices.accessible", {"path": "/dev/kvm", "group": "kvm"})
FORWARD = Receipt("lxc.sysctl.ip-forward", "kernel.setting", {"key": "net.ipv4.ip_forward", "wanted": "1"})


def prepared(item: str, operation: str = "x.y", **arguments: Any) -> Receipt:
    return Receipt(item, operation, arguments)


@pytest.mark.parametrize(
    ("receipt", "remaining", "needing"),
    [
        (KVM, [prepared("hyperlight.packages")], ["hyperlight.device.kvm"]),
        (KVM, [prepared("microvm.package.qemu")], []),
        (KVM, [], []),
        (FORWARD, [prepared("vm.pool")], ["vm.sysctl.ip-forward"]),
        (FORWARD, [prepared("bubblewrap.ids.workloads")], []),
        (FORWARD, [prepared("unheard.of")], []),
    ],
)
def test_who_relies_on_a_record_of_another_backend(
    receipt: Receipt, remaining: list[Receipt], needing: list[str]
) -> None:
    assert needed_by_others(receipt, remaining) == needing


def test_a_feature_that_was_not_prepared_relies_on_nothing() -> None:
    nft = prepared("lxc.package.network", "packages.installed", packages=["nftables"], family="debian")
    plain = [prepared("bubblewrap.ids.workloads")]
    assert needed_by_others(nft, plain) == []
    networked = [*plain, prepared("bubblewrap.module.conntrack")]
    assert needed_by_others(nft, networked) == ["bubblewrap.package.network"]


def test_packages_are_shared_by_name_also_where_the_other_backend_has_a_record() -> None:
    nft = prepared("bubblewrap.package.network", "packages.installed", packages=["nftables"], family="debian")
    others = [prepared("lxc.package.network", "packages.installed", packages=["iproute2"], family="debian")]
    assert needed_by_others(nft, others) == ["lxc.package.network"]
