"""Virtual machines that start in a fraction of a second and run Python source."""

from backends.vm.backend import VmBackend

__all__ = ["BACKEND"]

BACKEND = VmBackend("microvm")
