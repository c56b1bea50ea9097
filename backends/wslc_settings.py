"""What a request says of a WSL container (config-schema.md §3.11)."""

from __future__ import annotations

from backends.container_image import ContainerImage
from backends.frozen import frozen

__all__ = ["DEFAULT_IMAGE", "PortMapping", "WslcSettings"]

DEFAULT_IMAGE = "alpine:latest"


@frozen
class PortMapping:
    """A TCP port of the host's loopback that leads to one of the container."""

    host_port: int
    container_port: int


@frozen
class WslcSettings:
    """Nothing here was looked up yet.

    Parameters
    ----------
    image: a reference, as ``alpine:latest`` or ``registry.example/team/tool@sha256:…``.
    image_tar: host path of an archive instead: a root file system, ``docker save``'s or OCI's; "" for none.
    memory_mib: of the utility VM, in MiB; None leaves it to the backend, and so `cpus`.
    storage: host directory in which the container's own disk lies while it is there; "" keeps what it writes
        in memory.
    shared_vm: whether the utility VM is one for all such containers of the owner.
    pull: whether an image that is not here may be fetched for the run.
    found: what `image` or `image_tar` stands for, once it was looked up.
    """

    image: str = DEFAULT_IMAGE
    image_tar: str = ""
    target_os: str = "linux"
    cpus: int | None = None
    memory_mib: int | None = None
    gpu: bool = False
    storage: str = ""
    ports: tuple[PortMapping, ...] = ()
    shared_vm: bool = False
    pull: bool = False
    found: ContainerImage | None = None
