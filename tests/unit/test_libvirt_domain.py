"""The XML of a domain: what of a machine is in it, what is refused, what is read back."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import ConfigError, PolicyRefused
from backends.frozen import replace
from backends.inside.agent_protocol import PORT_NAME
from backends.qemu.libvirt_domain import domain_xml, read_channel, read_image_key, read_security_models
from backends.qemu.machine import Boot, Disk
from tests.domains import CASES, UUID

DOMAIN = CASES["microvm-tcg"]


def changed(**changes: Any) -> Any:
    return replace(DOMAIN, machine=replace(DOMAIN.machine, **changes))


_LETTERS = st.characters(min_codepoint=0x20, exclude_categories=["Cs"], exclude_characters="\ufffe\uffff")
TEXT = st.text(_LETTERS)


@given(line=TEXT, kernel=TEXT, disk=TEXT, key=TEXT)
def test_every_text_comes_back_as_it_was(line: str, kernel: str, disk: str, key: str) -> None:
    paths = {**DOMAIN.paths, "kernel": kernel, "root": disk}
    domain = replace(changed(boot=Boot(line)), paths=paths, image_key=key)
    xml = domain_xml(domain, UUID)
    read = ElementTree.fromstring(xml)
    source = read.find("devices/disk/source")
    assert source is not None
    assert ((read.findtext("os/cmdline"), read.findtext("os/kernel"), source.get("file"))) == (
        line,
        kernel,
        disk,
    )
    assert read_image_key(xml) == key


@pytest.mark.parametrize("text", ["a\nb", "\x00", "\x1b[2J", "\udcff", "\ufffe"])
def test_a_text_that_xml_would_change_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot be handed to libvirt") as refused:
        domain_xml(changed(boot=Boot(text)), UUID)
    assert (refused.value.problems[0].code, refused.value.path) == ("domain_text", "cmdline")


@pytest.mark.parametrize("name", ["", "../a", "-a", "a b", "a" * 65, "a\n", "ä", "<a>"])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        domain_xml(replace(DOMAIN, name=name), UUID)
    assert refused.value.problems[0].code == "domain_name"


def test_a_network_is_refused_because_libvirt_would_give_it_a_way_out() -> None:
    with pytest.raises(PolicyRefused) as refused:
        domain_xml(changed(network=True), UUID)
    assert refused.value.path == "machine.network"


def test_a_machine_that_is_restored_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        domain_xml(changed(boot=None), UUID)
    assert refused.value.problems[0].code == "domain_restored"


def test_a_disk_is_written_only_when_the_machine_says_so() -> None:
    domain = changed(disks=(Disk("root"), Disk("data", read_only=False)))
    read = ElementTree.fromstring(domain_xml(replace(domain, paths={**DOMAIN.paths, "data": "/d"}), UUID))
    disks = read.findall("devices/disk")
    assert [disk.find("readonly") is not None for disk in disks] == [True, False]


def test_no_interface_and_no_way_to_a_file_but_its_own() -> None:
    for domain in CASES.values():
        read = ElementTree.fromstring(domain_xml(domain, UUID, {"dac"}))
        devices = {device.tag for device in read.find("devices") or ()}
        assert devices == {"emulator", "disk", "controller", "console", "channel", "memballoon"}


def test_the_owner_of_an_image_stays_where_libvirt_could_change_it() -> None:
    assert "seclabel" not in domain_xml(DOMAIN, UUID, ("selinux",))
    label = ElementTree.fromstring(domain_xml(DOMAIN, UUID, ("selinux", "dac"))).find("seclabel")
    assert label is not None and label.attrib == {"type": "none", "model": "dac"}


def test_the_socket_of_the_agent_is_that_of_its_port_alone() -> None:
    channel = (
        '<channel type="unix"><source mode="bind" path="{}"/><target type="virtio" name="{}"/></channel>'
    )
    other, ours = channel.format("/other", "org.qemu.guest_agent.0"), channel.format("/ours", PORT_NAME)
    assert read_channel(f"<domain><devices>{other}{ours}</devices></domain>") == "/ours"
    assert read_channel(f"<domain><devices>{other}</devices></domain>") == ""
    assert read_channel(domain_xml(DOMAIN, UUID)) == "", "it is not running"


def test_a_domain_without_our_mark_is_not_ours() -> None:
    theirs = '<domain><metadata><image xmlns="urn:other" key="k"/></metadata></domain>'
    assert read_image_key(theirs) is None
    assert read_image_key("<domain/>") is None


def test_the_models_of_a_libvirt_are_read_from_its_capabilities() -> None:
    models = "".join(f"<secmodel><model>{name}</model><doi>0</doi></secmodel>" for name in ("selinux", "dac"))
    assert read_security_models(f"<capabilities><host>{models}</host></capabilities>") == {"selinux", "dac"}
