"""A virtual machine as libvirt's domain XML (pure).

The same `Machine` that `backends.qemu.machine` makes a command line of, for a machine that is to outlive us.
libvirt opens the parts itself, by their paths, and keeps what it makes (memory, monitor, the sockets of the
agent and of the console) in folders of its own, which its rules for AppArmor and SELinux cover. Elements:
libvirt, formatdomain.html.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Mapping
from xml.etree.ElementTree import Element, SubElement

from backends.errors import ConfigError, PolicyRefused, Problem
from backends.frozen import frozen
from backends.inside.agent_protocol import PORT_NAME
from backends.qemu.machine import Boot, Machine, MachineKind, Part

__all__ = ["NAMESPACE", "Domain", "domain_xml", "read_channel", "read_image_key", "read_security_models"]

NAMESPACE = "urn:mxc-ops:domain:1"
"""Of the element in a domain's metadata that says it is ours."""
_DOMAIN_TYPES = {"kvm": "kvm", "tcg": "qemu"}
_CPU_MODES = {"kvm": "host-passthrough", "tcg": "maximum"}
_OWNERSHIP = "dac"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
# XML 1.0 §2.2, without the tabs and line ends that a parser gives back as spaces.
_CARRIED = re.compile("[ -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


@frozen
class Domain:
    """A machine that libvirt is to keep.

    Parameters
    ----------
    name: how it is found again: letters, digits and ``._+-``, at most 64, a letter or digit first.
    image_key: what the image of the machine is identified by.
    machine: has a `Boot`, and no network.
    paths: the host path of the kernel and of the initrd (by the value of their `Part`), and of each disk (by
        its name). libvirt's QEMU must be allowed to read them.
    """

    name: str
    image_key: str
    machine: Machine
    paths: Mapping[str, str]


def domain_xml(domain: Domain, uuid: str, security_models: Collection[str] = ()) -> str:
    """The definition; the same text for the same arguments.

    Parameters
    ----------
    uuid: a new one makes libvirt itself refuse a second domain of the same name.
    security_models: by what the libvirt that it is for keeps its QEMUs apart (`read_security_models`).

    Raises `ConfigError` for a name or text that cannot stand in it, or a machine that boots nothing;
    `PolicyRefused` for one with a network; `KeyError` for a part without a path.
    """
    boot = _checked(domain)
    machine = domain.machine
    root = Element("domain", {"type": _DOMAIN_TYPES[machine.accelerator]})
    SubElement(root, "name").text = domain.name
    SubElement(root, "uuid").text = uuid
    mark = {"xmlns:mxc": NAMESPACE, "key": domain.image_key}
    SubElement(SubElement(root, "metadata"), "mxc:image", mark)
    SubElement(root, "memory", {"unit": "MiB"}).text = str(machine.memory_mib)
    SubElement(root, "vcpu").text = str(machine.cpus)
    _add_boot(root, domain, boot)
    # Without ACPI Debian's kernel finds no device of a microvm.
    SubElement(SubElement(root, "features"), "acpi")
    SubElement(root, "cpu", {"mode": _CPU_MODES[machine.accelerator]})
    SubElement(root, "clock", {"offset": "utc"})
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        SubElement(root, event).text = "destroy"
    _add_devices(SubElement(root, "devices"), domain)
    if _OWNERSHIP in security_models:
        # Else libvirt gives kernel, initrd and disks, which many machines share, to the user of its QEMU.
        SubElement(root, "seclabel", {"type": "none", "model": _OWNERSHIP})
    _check_texts(root)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def read_channel(xml: str) -> str:
    """The host path of the agent's socket, from the XML of a running domain; "" when it is not running."""
    for channel in _parsed(xml).iterfind("devices/channel"):
        source, target = channel.find("source"), channel.find("target")
        if source is not None and target is not None and target.get("name") == PORT_NAME:
            return source.get("path", "")
    return ""


def read_image_key(xml: str) -> str | None:
    """The key of the image of a domain of ours; None for anybody else's domain."""
    mark = _parsed(xml).find(f"metadata/{{{NAMESPACE}}}image")
    return None if mark is None else mark.get("key", "")


def read_security_models(capabilities: str) -> frozenset[str]:
    """By what a libvirt keeps its QEMUs apart, from its capabilities: ``dac``, ``apparmor``, ``selinux``."""
    models = _parsed(capabilities).iterfind("host/secmodel/model")
    return frozenset(model.text for model in models if model.text)


def _parsed(xml: str) -> Element:
    return ElementTree.fromstring(xml)  # noqa: S314 - what libvirt says, whom the host trusts with more


def _checked(domain: Domain) -> Boot:
    """What the machine boots."""
    if not _NAME.fullmatch(domain.name):
        raise ConfigError(
            Problem(
                "domain_name",
                "name",
                f"{domain.name!r} cannot be the name of a domain",
                expected="letters, digits and ._+-, at most 64, a letter or digit first",
            )
        )
    if domain.machine.network:
        raise PolicyRefused(
            Problem(
                "domain_network",
                "machine.network",
                "libvirt has no network card that leads nowhere",
                expected="a machine without a network",
            )
        )
    if domain.machine.boot is None:
        raise ConfigError(
            Problem(
                "domain_restored",
                "machine.boot",
                "libvirt takes no machine that is restored from a template",
                expected="a machine that boots a kernel",
            )
        )
    return domain.machine.boot


def _add_boot(root: Element, domain: Domain, boot: Boot) -> None:
    system = SubElement(root, "os")
    SubElement(system, "type", {"arch": "x86_64", "machine": domain.machine.kind.value}).text = "hvm"
    SubElement(system, "kernel").text = domain.paths[Part.KERNEL.value]
    SubElement(system, "initrd").text = domain.paths[Part.INITRD.value]
    SubElement(system, "cmdline").text = boot.command_line


def _add_devices(devices: Element, domain: Domain) -> None:
    machine = domain.machine
    SubElement(devices, "emulator").text = machine.qemu
    for place, disk in enumerate(machine.disks):
        device = SubElement(devices, "disk", {"type": "file", "device": "disk"})
        SubElement(device, "driver", {"name": "qemu", "type": "raw"})
        SubElement(device, "source", {"file": domain.paths[disk.name]})
        SubElement(device, "target", {"dev": f"vd{chr(ord('a') + place)}", "bus": "virtio"})
        if disk.read_only:
            SubElement(device, "readonly")
        _add_address(device, machine.kind)
    _add_address(SubElement(devices, "controller", {"type": "virtio-serial", "index": "0"}), machine.kind)
    console = SubElement(devices, "console", {"type": "pty"})
    SubElement(console, "target", {"type": "virtio", "port": "0"})
    channel = SubElement(devices, "channel", {"type": "unix"})
    SubElement(channel, "target", {"type": "virtio", "name": PORT_NAME})
    # libvirt adds both to every machine, and a microvm has no PCI bus to put them on.
    SubElement(devices, "controller", {"type": "usb", "model": "none"})
    SubElement(devices, "memballoon", {"model": "none"})


def _add_address(device: Element, kind: MachineKind) -> None:
    if kind is MachineKind.MICROVM:
        SubElement(device, "address", {"type": "virtio-mmio"})


def _check_texts(root: Element) -> None:
    for element in root.iter():
        for text in (element.text or "", *element.attrib.values()):
            if not _CARRIED.fullmatch(text):
                raise ConfigError(
                    Problem(
                        "domain_text",
                        element.tag,
                        f"{text!r} has a character that cannot be handed to libvirt",
                        expected="no control characters, and UTF-8",
                    )
                )
