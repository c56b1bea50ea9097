"""Domains for the tests of libvirt: both machines, by KVM and by TCG."""

from __future__ import annotations

from backends.frozen import replace
from backends.qemu.libvirt_domain import Domain
from backends.qemu.machine import Boot, Disk, Machine, MachineKind

__all__ = ["CASES", "MODELS", "TCG_ONLY", "UUID"]

UUID = "6b19eaac-51f0-4123-9b18-612dc4c3feea"
_MICROVM = Machine(
    qemu="/usr/bin/qemu-system-x86_64",
    kind=MachineKind.MICROVM,
    accelerator="tcg",
    memory_mib=256,
    boot=Boot("panic=-1 quiet reboot=t random.trust_cpu=on tsc_early_khz=2600000"),
    disks=(Disk("root"),),
    network=False,
)
_Q35 = replace(_MICROVM, kind=MachineKind.Q35, cpus=2, disks=(Disk("root"), Disk("data", read_only=False)))
_PATHS = {
    "kernel": "/var/lib/mxc-ops/images/0123/vmlinux",
    "initrd": "/var/lib/mxc-ops/images/0123/initrd",
    "root": "/var/lib/mxc-ops/images/0123/rootfs.erofs",
    "data": '/var/lib/libvirt/images/data & "more".raw',
}


def _domain(name: str, machine: Machine) -> Domain:
    return Domain(name, "sha256:0123", machine, _PATHS)


CASES = {
    "microvm-tcg": _domain("microvm-tcg", _MICROVM),
    "microvm-kvm": _domain("microvm-kvm", replace(_MICROVM, accelerator="kvm")),
    "q35-tcg": _domain("q35-tcg", _Q35),
    "q35-kvm": _domain("q35-kvm", replace(_Q35, accelerator="kvm")),
}
MODELS = {name: ("apparmor", "dac") if name.startswith("microvm") else () for name in CASES}

TCG_ONLY = r"""
set -e
nothing=$(mktemp)
chmod 0 $nothing
for path in /dev/kvm /usr/bin/qemu-system-i386; do
    if [ -e $path ]; then mount --bind $nothing $path; fi
done
rm $nothing
"""
"""Shell lines for a mount namespace without KVM, and with one QEMU.

libvirt asks every QEMU what it can, and again with each call where the user of its QEMUs may not use KVM."""
