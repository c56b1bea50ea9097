"""What a host says about hardware virtualisation: processor, modules, device (host-prep.md §9).

None of it proves that a guest runs: that is for `backends.qemu.accelerator`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from backends.frozen import frozen

__all__ = ["KVM", "Virtualisation", "login", "observe", "remedy"]

KVM = "dev/kvm"
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
    """

    flag: str
    below: bool
    modules: tuple[str, ...]
    nested: Mapping[str, str]
    device: str
    shared: bool
    accessible: bool


def observe(root: str = "/") -> Virtualisation:
    """Read the processor's flags, KVM's modules and its device; changes nothing.

    Parameters
    ----------
    root: the directory that holds ``proc``, ``sys`` and ``dev``, ending in ``/``.
    """
    flags = _flags(f"{root}proc/cpuinfo")
    modules = _modules(f"{root}sys/module")
    nested = {name: _read(f"{root}sys/module/{name}/parameters/nested") for name in modules}
    shown, shared = _rights(root + KVM)
    return Virtualisation(
        flag=next((name for name in ("vmx", "svm") if name in flags), ""),
        below="hypervisor" in flags,
        modules=modules,
        nested={name: value for name, value in nested.items() if value},
        device=shown,
        shared=shared,
        accessible=os.access(root + KVM, os.R_OK | os.W_OK),
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


def _rights(device: str) -> tuple[str, bool]:
    """For people, and whether others than root may open it; "" where there is nothing."""
    import grp

    try:
        status = os.stat(device)
    except OSError:
        return "", False
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    mode = stat.S_IMODE(status.st_mode)
    shared = mode & 0o006 == 0o006 or (mode & 0o060 == 0o060 and status.st_gid != 0)
    return f"group {group}, mode {mode:04o}", shared


def remedy(host: Virtualisation, prepare: str) -> tuple[str, str]:
    """What would make KVM work, and who can do that. Pure.

    Parameters
    ----------
    prepare: the command that prepares the host.
    """
    if not host.flag and host.below:
        return (
            "turn on nested virtualisation for this virtual machine"
            " (on Hyper-V: Set-VMProcessor -ExposeVirtualizationExtensions $true)",
            _OUTSIDE,
        )
    if not host.flag:
        return "turn on VT-x or AMD-V in the firmware's settings", "whoever has the machine at hand"
    if not host.device:
        return f"modprobe kvm_{'intel' if host.flag == 'vmx' else 'amd'}", "root"
    if not host.accessible:
        return f"{prepare} && usermod -aG kvm {login()}, then log in again", "root"
    if host.below:
        return "have nested virtualisation mended below, or use a host of bare metal", _OUTSIDE
    return "look for KVM's complaint: dmesg | grep -i kvm", "root"


def login() -> str:
    """The caller's name, or uid where it has none."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
