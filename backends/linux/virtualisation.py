"""What a host says about hardware virtualisation: processor, modules, device (host-prep.md §9).

None of it proves that a guest runs: that is for `backends.qemu.accelerator`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from backends.frozen import frozen
from backends.linux.groups import joining

__all__ = ["KVM", "Virtualisation", "access", "observe", "remedy"]

KVM = "dev/kvm"
_ROOTS = "root"
_OUTSIDE = "whoever runs the machine below"


@frozen
class Virtualisation:
    """What was read.

    Parameters
    ----------
    flag: ``vmx``, ``svm`` or "": the extension that the processor shows.
    below: this machine is itself a virtual one.
    modules: KVM's, loaded or built in.
    nested: module → its parameter ``nested``: whether guests may have guests.
    device: owner, group and mode of /dev/kvm, for people; "" without it.
    shared: a group other than root's, or everybody, may open the device.
    accessible: the caller may.
    join: the command that lets the caller join the device's group; "" for root, and without a device.
    """

    flag: str
    below: bool
    modules: tuple[str, ...]
    nested: Mapping[str, str]
    device: str
    shared: bool
    accessible: bool
    join: str = ""


def observe(root: str = "/") -> Virtualisation:
    """Read the processor's flags, KVM's modules and its device; changes nothing.

    Parameters
    ----------
    root: the directory that holds ``proc``, ``sys`` and ``dev``, ending in ``/``.
    """
    flags = _flags(f"{root}proc/cpuinfo")
    modules = _modules(f"{root}sys/module")
    nested = {name: _read(f"{root}sys/module/{name}/parameters/nested") for name in modules}
    group, mode = _rights(root + KVM)
    return Virtualisation(
        flag=next((name for name in ("vmx", "svm") if name in flags), ""),
        below="hypervisor" in flags,
        modules=modules,
        nested={name: value for name, value in nested.items() if value},
        device=f"group {group}, mode {mode:04o}" if group else "",
        shared=mode & 0o006 == 0o006 or (mode & 0o060 == 0o060 and group != _ROOTS),
        accessible=os.access(root + KVM, os.R_OK | os.W_OK),
        join=joining(group) if group else "",
    )


def _flags(cpuinfo: str) -> list[str]:
    for line in _read(cpuinfo).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return value.split()
    return []


def _modules(folder: str) -> tuple[str, ...]:
    try:
        return tuple(sorted(name for name in os.listdir(folder) if name.startswith("kvm")))
    except OSError:
        return ()


def _read(file: str) -> str:
    try:
        with open(file) as handle:
            return handle.read().strip()
    except OSError:
        return ""


def _rights(device: str) -> tuple[str, int]:
    """Its group, "" where there is nothing, and its mode."""
    import grp

    try:
        status = os.stat(device)
    except OSError:
        return "", 0
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return group, stat.S_IMODE(status.st_mode)


def remedy(host: Virtualisation, prepare: str) -> tuple[str, str, str]:
    """Why KVM does not work: the nearest cause, the command that mends it, and who can. Pure.

    Where no command on this host mends it that is "", and the cause says what does.

    Parameters
    ----------
    prepare: the command that prepares the host.
    """
    if not host.flag and host.below:
        cause = (
            "nested virtualisation is to be turned on for this virtual machine"
            " (on Hyper-V: Set-VMProcessor -ExposeVirtualizationExtensions $true)"
        )
        return cause, "", _OUTSIDE
    if not host.flag:
        cause = "VT-x or AMD-V is to be turned on in the firmware's settings"
        return cause, "", "whoever has the machine at hand"
    if not host.device:
        name = "kvm_intel" if host.flag == "vmx" else "kvm_amd"
        return f"the module {name} is not loaded", f"modprobe {name}", "root"
    if not host.accessible:
        return access(host, prepare)
    if host.below:
        cause = "nested virtualisation is to be mended below, or a host of bare metal to be used"
        return cause, "", _OUTSIDE
    return "the kernel may have said why", "dmesg | grep -i kvm", "root"


def access(host: Virtualisation, prepare: str) -> tuple[str, str, str]:
    """Who may not open the device, the command that lets them, and who can do that; as `remedy`. Pure."""
    if not host.shared:
        return "other users may not open it", prepare, "root"
    if host.join:
        return (
            "you may not open it, but members of its group may, from their next log-in on",
            host.join,
            "root",
        )
    cause = "not even root may open it: a container is to be started with the device"
    return cause, "", "whoever starts the container"
