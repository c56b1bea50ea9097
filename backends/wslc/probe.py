"""What containers in machines of ours need, tried out on this host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection

from backends.microvm.probe import machine_probes
from backends.needs import Health, Probe, fault_of
from backends.wslc.needs import IMAGE

__all__ = ["probe"]

_TOOLS = ("skopeo", "umoci", "mkfs.erofs")
_FORMATTER = "mkfs.ext4"


def probe(features: Collection[str] = ()) -> list[Probe]:
    """See `backends.microvm.probe.machine_probes`; and what images and disks of containers are made with."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [name for name in _TOOLS if shutil.which(name, path=path) is None]
    return [
        *machine_probes("wslc", IMAGE, features),
        _container_tools(missing, features),
        _file_system(shutil.which(_FORMATTER, path=path)),
    ]


def _container_tools(missing: list[str], features: Collection[str]) -> Probe:
    identifier, why = "wslc.container-tools", "images of containers are taken in here"
    if not missing:
        return Probe(identifier, Health.OK, f"{', '.join(_TOOLS)} are here", why)
    fix = "mxc-ops prep host --backend wslc --feature build --yes"
    return Probe(identifier, fault_of("build", features), f"missing: {', '.join(missing)}", why, fix, "root")


def _file_system(found: str | None) -> Probe:
    identifier, why = "wslc.file-system", "what a container writes can be on a disk (storagePath)"
    if found:
        return Probe(identifier, Health.OK, f"{found} is here", why)
    fix = "mxc-ops prep host --backend wslc --yes"
    return Probe(identifier, Health.WARNING, f"{_FORMATTER} is not here", why, fix, "root")
