"""Virtual machines: one command, each in a machine of its own, by QEMU."""

from backends.vm.backend import VmBackend

__all__ = ["BACKEND"]

BACKEND = VmBackend("vm")
