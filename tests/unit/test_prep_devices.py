"""What microVMs, Hyperlight and networks need: items for each distribution, and what rules make of them."""

from __future__ import annotations

import pytest

from backends.bubblewrap.needs import NEEDS as BUBBLEWRAP
from backends.hyperlight.needs import NEEDS as HYPERLIGHT
from backends.microvm.needs import NEEDS as MICROVM
from backends.needs import Need, NeedKind
from mxc_ops.prep.items import FAMILIES, Choices, HostFacts, items_for
from mxc_ops.prep.rules import rule
from mxc_ops.prep.rules.devices import RULES, drop_in

ALL = (*BUBBLEWRAP, *MICROVM, *HYPERLIGHT)
UBUNTU_22_04 = "jammy"
"""The one release whose packages differ from those of its family."""
NODE = {"kind": "character device", "mode": "600", "group": "root", "gid": "0"}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_need_becomes_an_item_whose_rule_takes_its_arguments(family: str) -> None:
    host = HostFacts("h", family, family, "root")
    needs = [need for need in ALL if need.kind is not NeedKind.IMAGE]
    for item in items_for(needs, host, Choices(["microvm"])):
        assert rule(item.operation).queries(**item.arguments), item


@pytest.mark.parametrize(
    "need", [need for need in ALL if need.kind is NeedKind.DEVICE], ids=lambda need: need.identifier
)
def test_each_device_gets_a_udev_rule_for_its_own_name(need: Need) -> None:
    path, group = need.data["path"], need.data["group"]
    decision = RULES["accessible"].decide(NODE, "works", True, {}, [], path=path, group=group)
    (change,) = decision.files
    name = path.rpartition("/")[2]
    assert change.path == drop_in(path) == f"/etc/udev/rules.d/90-mxc-ops-{name}.rules"
    owner = f', GROUP="{group}"' if group else ""
    assert f'KERNEL=="{name}"{owner}, MODE="0{"660" if group else "666"}"\n' in (change.after or "")


@pytest.mark.parametrize(
    "need", [need for need in ALL if need.kind is NeedKind.PACKAGE], ids=lambda need: need.identifier
)
def test_no_package_is_named_twice_or_for_a_family_that_is_not_known(need: Need) -> None:
    assert set(need.packages) <= {*FAMILIES, UBUNTU_22_04}
    assert all(len(set(names)) == len(names) for names in need.packages.values())


def test_what_hyperlight_installs_is_one_exact_set() -> None:
    (need,) = [need for need in HYPERLIGHT if need.kind is NeedKind.PYTHON_PACKAGES]
    versions = {text.partition("==")[2] for text in need.data["requirements"]}
    assert len(versions) == 1 and "" not in versions
