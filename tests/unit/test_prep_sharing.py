"""What several backends need alike, and who relies on whose record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from backends import registry
from backends.needs import FEATURES
from mxc_ops.prep.choices import Choices
from mxc_ops.prep.items import Item, needs_of
from mxc_ops.prep.receipts import Receipt
from mxc_ops.prep.sharing import needed_by_others, needed_for_undo, recorded_as

KVM = Receipt("microvm.device.kvm", "devices.accessible", {"path": "/dev/kvm", "group": "kvm"})
LAUNCHER = Receipt("bubblewrap.helper.launcher", "helpers.pushed", {"program": "launcher", "key": "0"})
AGENT = Receipt("bubblewrap.helper.agent", "helpers.built", {"program": "agent", "key": "0"})
STORE = "/var/lib/mxc-ops/images"
PYTHON = Receipt("microvm.image.python", "images.stored", {"image": "python", "path": STORE})
BASE = Receipt("vm.image.base", "images.stored", {"image": "base", "path": STORE})
FORWARDED = {"key": "net.ipv4.ip_forward", "wanted": "1", "kernel_default": "0"}
FORWARD = Receipt("lxc.network.sysctl.ip-forward", "kernel.setting", FORWARDED)
BRIDGE = Receipt("lxc.network.bridge", "network.bridge", {"bridge": "mxcbr0", "address": "10.99.0.1/22"})


def prepared(item: str, operation: str = "x.y", **arguments: Any) -> Receipt:
    return Receipt(item, operation, arguments)


@pytest.mark.parametrize(
    ("receipt", "remaining", "needing"),
    [
        (KVM, [prepared("hyperlight.packages")], ["hyperlight.device.kvm"]),
        (KVM, [prepared("microvm.package.qemu")], []),
        (KVM, [], []),
        (LAUNCHER, [prepared("vm.package.qemu")], ["vm.confinement.helper.launcher"]),
        (AGENT, [prepared("lxc.helper.launcher")], []),
        (AGENT, [prepared("lxc.helper.launcher"), prepared("lxc.helper.agent")], []),
        (PYTHON, [prepared("vm.image.base")], []),
        (BASE, [prepared("microvm.image.python")], []),
        (FORWARD, [prepared("vm.pool")], ["vm.sysctl.ip-forward"]),
        (FORWARD, [prepared("vm.package.qemu")], []),
        (FORWARD, [prepared("vm.network.bridge")], ["vm.network.sysctl.ip-forward"]),
        (BRIDGE, [prepared("bubblewrap.network.device.tun")], ["bubblewrap.network.bridge"]),
        (BRIDGE, [prepared("vm.network")], []),
        (replace(FORWARD, item="vm.sysctl.ip-forward"), [prepared("vm.pool")], []),
        (
            replace(FORWARD, item="vm.sysctl.ip-forward"),
            [prepared("vm.network.device.tun")],
            ["vm.network.sysctl.ip-forward"],
        ),
        (FORWARD, [prepared("bubblewrap.ids.workloads")], []),
        (FORWARD, [prepared("unheard.of")], []),
    ],
)
def test_who_relies_on_a_record_of_another_backend(
    receipt: Receipt, remaining: list[Receipt], needing: list[str]
) -> None:
    assert needed_by_others(receipt, remaining) == needing


def packages(item: str, *added: str, family: str = "debian") -> Receipt:
    return Receipt(item, "packages.installed", {"packages": [], "family": family}, made={"added": [*added]})


def test_a_feature_that_was_not_prepared_relies_on_nothing() -> None:
    nft = packages("lxc.network.package", "nftables")
    plain = [prepared("bubblewrap.ids.workloads")]
    assert needed_by_others(nft, plain) == []
    networked = [*plain, prepared("bubblewrap.network.module.conntrack")]
    assert needed_by_others(nft, networked) == ["bubblewrap.network.package"]
    idmap = packages("lxc.package.idmap", "uidmap")
    rootless = [*plain, prepared("bubblewrap.ids.users.alice")]
    assert (needed_by_others(idmap, plain), needed_by_others(idmap, rootless)) == (
        [],
        ["bubblewrap.package.idmap"],
    )


def test_packages_are_shared_as_they_were_added_and_not_as_they_were_asked_for() -> None:
    others = [packages("lxc.network.package", "iproute2")]
    assert needed_by_others(packages("bubblewrap.package.bwrap", "bubblewrap"), others) == []
    along = packages("bubblewrap.package.bwrap", "bubblewrap", "nftables")
    assert needed_by_others(along, others) == ["lxc.network.package"]
    fedora = packages("bubblewrap.network.package", "nftables.x86_64", family="fedora")
    assert needed_by_others(fedora, others) == ["lxc.network.package"]


@pytest.mark.parametrize(
    ("item", "needing"),
    [("lxc.network.package", ["lxc.network.bridge"]), ("lxc.package.tools", []), ("unheard.of", [])],
)
def test_what_is_needed_to_take_something_back_is_told(item: str, needing: list[str]) -> None:
    assert needed_for_undo(item, ["lxc.network.bridge", "lxc.ids.workloads", "vm.pool"]) == needing
    assert needed_for_undo(item, ["lxc.ids.workloads"]) == []


def test_what_is_taken_back_by_the_help_of_something_comes_after_it() -> None:
    for containment in registry.preparable():
        needs = needs_of(Choices((containment,), FEATURES))
        order = [need.identifier for need in needs]
        for need in needs:
            assert all(order.index(tool) < order.index(need.identifier) for tool in need.undone_with)


@pytest.mark.parametrize(
    ("item", "operation", "arguments", "name"),
    [
        ("bubblewrap.network.bridge", "network.bridge", {"bridge": "mxcbr0"}, "lxc.network.bridge"),
        ("lxc.network.bridge", "network.bridge", {"bridge": "mxcbr0"}, "lxc.network.bridge"),
        ("bubblewrap.network.bridge", "network.bridge", {"bridge": "mxcbr1"}, "bubblewrap.network.bridge"),
        ("vm.sysctl.ip-forward", "kernel.setting", FORWARDED, "lxc.network.sysctl.ip-forward"),
        ("vm.a.b", "network.ipv6_forwarding", FORWARDED, "vm.a.b"),
        ("vm.package.qemu", "packages.installed", {"packages": [], "family": "debian"}, "vm.package.qemu"),
    ],
)
def test_a_further_change_belongs_to_who_has_the_first_one_recorded(
    item: str, operation: str, arguments: dict[str, Any], name: str
) -> None:
    recorded = [FORWARD, BRIDGE, packages("lxc.network.package", "nftables")]
    wanted = Item(item, "", "", operation, arguments)
    assert recorded_as(wanted, {one.item: one for one in recorded}) == name
