"""What runs in virtual machines need, tried out on this host; with the feature ``libvirt``, libvirt too."""

from __future__ import annotations

from collections.abc import Collection

from backends.microvm.probe import machine_probes
from backends.needs import Probe
from backends.vm.needs import IMAGE, LIBVIRT

__all__ = ["probe"]


def probe(features: Collection[str] = ()) -> list[Probe]:
    """See `backends.microvm.probe.machine_probes` and `backends.vm.libvirt_probe.probe`."""
    probes = machine_probes("vm", IMAGE, features)
    if LIBVIRT not in features:
        return probes
    from backends.vm import libvirt_probe

    return [*probes, *libvirt_probe.probe()]
