"""What Hyperlight needs, tried out on this host: what machines need, and for the native driver its packages
and a hypervisor that really runs a guest.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from backends.hyperlight.native.facts import Packages
from backends.hyperlight.native.observe import facts_of, tried
from backends.hyperlight.native.packages import examine, find_packages, run_python
from backends.hyperlight.native.words import without_repeats
from backends.hyperlight.needs import ENVIRONMENT, IMAGE, NATIVE, REQUIREMENTS
from backends.linux.virtualisation import Virtualisation, observe, remedy
from backends.microvm.probe import machine_probes
from backends.needs import Health, Probe
from backends.qemu.accelerator import find_qemu, machine_type, try_accelerator

__all__ = ["hypervisor_probe", "native_probes", "probe"]

FIX = "mxc-ops prep host --backend hyperlight --feature native --yes"
_MSHV = "/dev/mshv"
_PACKAGES = "hyperlight.packages"
_WHY_HYPERVISOR = "every sandbox is a virtual machine, and Hyperlight emulates none"
_WHY_CONFINED = "runs are made so: the process that carries the machine sees nothing else of the host"
_RUN = """
from importlib.util import find_spec
from hyperlight_sandbox import Sandbox
(folder,) = find_spec("python_guest").submodule_search_locations
guest = folder + "/resources/python-sandbox.aot"
print(Sandbox(backend="wasm", module_path=guest).run("print(6 * 7)").stdout)
"""


def probe(features: Collection[str] = ()) -> list[Probe]:
    """See `backends.microvm.probe.machine_probes` and `native_probes`.

    Machines serve every run, so without the feature ``native`` what the packages lack is worth a warning at
    most, and nothing where they are not installed.
    """
    native = native_probes()
    if NATIVE not in features:
        absent = native[0].identifier == _PACKAGES and native[0].health is Health.FAILED
        native = [_absent(native[0])] if absent else [_less(one) for one in native]
    return [*machine_probes("hyperlight", IMAGE, features), *native]


def _absent(packages: Probe) -> Probe:
    seen = f"not installed ({packages.seen}): QEMU runs everything"
    return Probe(packages.identifier, Health.OK, seen, "they are the driver native, which is a choice")


def _less(probe: Probe) -> Probe:
    return replace(probe, health=Health.WARNING) if probe.health is Health.FAILED else probe


def native_probes(environment: str = ENVIRONMENT) -> list[Probe]:
    """Import the packages and run a sandbox with them; without them, boot a guest by KVM if QEMU is here.

    Where one runs, another is run as every run is: in its confinement, and not as root.

    Parameters
    ----------
    environment: directory of the Python environment that prep makes; our own comes before it, with the extra
        ``hyperlight``.
    """
    machine = os.uname().machine
    if machine != "x86_64":
        why = "its packages are built for x86_64 only"
        seen = f"this is {machine}; an x86_64 host is needed"
        provider = "whoever provides the host"
        return [Probe("hyperlight.machine", Health.FAILED, seen, why, privilege=provider)]
    found, missing = find_packages() if environment == ENVIRONMENT else examine(environment)
    ran = None
    if found is not None:
        status, said = run_python(found.python, _RUN)
        ran = status, said if status == 0 else without_repeats(said)
    hypervisor = hypervisor_probe(ran, _guest_by_kvm(), observe(), has_mshv=Path(_MSHV).exists())
    probes = [_packages(found, missing), hypervisor]
    if found is not None and hypervisor.health is Health.OK:
        probes.append(_confined(found))
    return probes


def _packages(found: Packages | None, missing: str) -> Probe:
    identifier, why = _PACKAGES, "they are what runs the sandboxes"
    if found is None:
        return Probe(identifier, Health.FAILED, missing, why, FIX, "root")
    return Probe(identifier, Health.OK, f"{' '.join(REQUIREMENTS)} in {found.environment}", why)


def _confined(found: Packages) -> Probe:
    identifier = f"hyperlight.sandbox.{'root' if os.geteuid() == 0 else 'caller'}"
    why = tried(facts_of(found)).why
    if why:
        return Probe(
            identifier, Health.FAILED, f"none runs in its confinement: {why}", _WHY_CONFINED, FIX, "root"
        )
    return Probe(identifier, Health.OK, "one ran in its confinement and answered", _WHY_CONFINED)


def _guest_by_kvm() -> str | None:
    """Why KVM carries no guest of QEMU's, "" when it does; None without QEMU to try it with."""
    qemu = find_qemu()
    if qemu is None:
        return None
    return try_accelerator(qemu, "kvm", machine=machine_type(qemu)).why


def hypervisor_probe(
    ran: tuple[int, str] | None, kvm: str | None, host: Virtualisation, *, has_mshv: bool
) -> Probe:
    """Whether sandboxes can run here. Pure.

    Parameters
    ----------
    ran: how a sandbox of Hyperlight's ended and what it printed last; None when its packages are not here.
    kvm: why KVM carries no guest of QEMU's, "" when it does; None when that was not tried.
    has_mshv: /dev/mshv is here.
    """
    identifier = "hyperlight.hypervisor"
    if ran == (0, "42"):
        return Probe(identifier, Health.OK, "a sandbox ran and answered", _WHY_HYPERVISOR)
    cause, fix, privilege = remedy(host, FIX)
    if not host.device and not has_mshv:
        seen = f"no sandbox can run: neither /dev/kvm nor {_MSHV} is here"
    elif ran is not None:
        seen = f"the packages load, but no sandbox runs: {ran[1]}"
        seen += f"; QEMU boots no guest by KVM either: {kvm}" if kvm else ""
    elif kvm == "" or has_mshv:
        seen = "KVM works" if kvm == "" else f"{_MSHV} is here"
        seen += "; a sandbox is tried once the packages are here"
        return Probe(identifier, Health.WARNING, seen, _WHY_HYPERVISOR, FIX, "root")
    elif kvm is None:
        seen = "/dev/kvm is here, which proves nothing; it is tried once the packages, or QEMU, are here"
        return Probe(identifier, Health.WARNING, seen, _WHY_HYPERVISOR, FIX, "root")
    else:
        seen = f"no sandbox can run: QEMU boots no guest by KVM: {kvm}"
    return Probe(identifier, Health.FAILED, f"{seen}; {cause}", _WHY_HYPERVISOR, fix, privilege)
