"""What a network takes of a host: the same for every backend, under each one's own names."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from backends import registry
from backends.needs import Need, NeedKind
from backends.network.needs import FEATURE, network_needs
from mxc_ops.prep.choices import Choices
from mxc_ops.prep.items import HostFacts, distribution_codename, items_for, needs_of

BACKENDS = ("bubblewrap", "lxc", "microvm", "vm")
DEBIAN = HostFacts("@local", "Debian GNU/Linux 12", "debian", "root", codename="bookworm")
WITH_NETWORK = Choices(("bubblewrap",), (FEATURE,))


def needs_for_a_network(backend: str) -> list[Need]:
    module = registry.CONTAINMENTS[backend].needs
    assert module is not None
    with_it, without = (import_module(module).needs(features) for features in ([FEATURE], []))
    return [need for need in with_it if need not in without]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_network_takes_the_same_for_every_backend(backend: str) -> None:
    machines = needs_for_a_network(backend)[0].machines
    assert needs_for_a_network(backend) == [*network_needs(backend, machines)]
    named = [need.identifier.removeprefix(f"{backend}.network.") for need in network_needs(backend)]
    assert named == [need.identifier.removeprefix("lxc.network.") for need in network_needs("lxc")]


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_the_feature_nothing_of_the_hosts_network_is_changed(backend: str) -> None:
    always = needs_of(Choices((backend,)))
    assert not [need for need in always if need.kind in (NeedKind.BRIDGE, NeedKind.IPV6_FORWARDING)]
    assert not [need for need in always if str(need.data.get("key", "")).startswith("net.")]


def test_of_several_backends_each_operation_is_one_and_the_same() -> None:
    choices = Choices(BACKENDS, (FEATURE,))
    items = [item for item in items_for(needs_of(choices), DEBIAN, choices) if ".network." in item.identifier]
    distinct: list[dict[str, Any]] = []
    for item in items:
        arguments = {"operation": item.operation, **item.arguments}
        distinct += [arguments] if arguments not in distinct else []
    assert len(distinct) == len(items) // len(BACKENDS)


@pytest.mark.parametrize(
    ("release", "helper"),
    [
        ({"ID": "ubuntu", "VERSION_CODENAME": "jammy", "UBUNTU_CODENAME": "jammy"}, "slirp4netns"),
        ({"ID": "linuxmint", "VERSION_CODENAME": "vera", "UBUNTU_CODENAME": "jammy"}, "slirp4netns"),
        ({"ID": "ubuntu", "VERSION_CODENAME": "noble", "UBUNTU_CODENAME": "noble"}, "passt"),
        ({"ID": "debian", "VERSION_CODENAME": "bookworm"}, "passt"),
        ({"ID": "arch"}, "passt"),
    ],
)
def test_a_release_without_pasta_gets_slirp4netns(release: dict[str, str], helper: str) -> None:
    facts = replace(DEBIAN, codename=distribution_codename(release))
    items = {item.identifier: item for item in items_for(needs_of(WITH_NETWORK), facts, WITH_NETWORK)}
    packages = items["bubblewrap.network.package"].arguments["packages"]
    assert helper in packages
    assert len({"passt", "slirp4netns"} & {*packages}) == 1
