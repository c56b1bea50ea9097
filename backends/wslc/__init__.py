"""WSL containers: Linux containers from OCI images, in a virtual machine of ours, or planned for Windows'."""

from backends.wslc.backend import WslcBackend

__all__ = ["BACKEND"]

BACKEND = WslcBackend()
