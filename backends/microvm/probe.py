"""What runs in virtual machines need, tried out on this host: QEMU, each accelerator by booting a guest, what
confines QEMU, image tools. For ``microvm`` and for ``vm``, whose runs need the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence

from backends.bubblewrap.facts import check_helper, find_helper
from backends.errors import MxcError
from backends.inside.store import LAUNCHER, find_program, user_store
from backends.linux.virtualisation import Virtualisation, access, observe, remedy
from backends.microvm.needs import IMAGE, IMAGE_STORE
from backends.needs import Health, Probe, fault_of
from backends.network.probe import network_probes
from backends.qemu.accelerator import ACCELERATORS, Verdict, find_qemu, machine_type, try_accelerator

__all__ = [
    "accelerator_probes",
    "device_probe",
    "image_probe",
    "image_tools_probe",
    "machine_probes",
    "probe",
]

_REINSTALL = ("QEMU's package is to be installed again", "", "root")
_DEADLINE_S = 10
_WHY_ACCELERATOR = "something must execute the guest: KVM on the processor itself, else TCG by translating it"
_COST = (
    "TCG carries the machines instead: a cold start takes one to two seconds, computing many times as long"
)
IMAGE_TOOLS: Mapping[str, Sequence[str]] = {
    "root file systems": ("mmdebstrap",),
    "erofs": ("mkfs.erofs",),
    "squashfs": ("mksquashfs",),
    "kernels": ("lz4",),
    "kernel modules": ("depmod",),
    "the agent": ("musl-gcc", "gcc", "cc"),
}
"""What is made → the programs that make it, one of which is enough."""


def probe(features: Collection[str] = ()) -> list[Probe]:
    """See `machine_probes`."""
    return machine_probes("microvm", IMAGE, features)


def machine_probes(backend: str, image: str, features: Collection[str]) -> list[Probe]:
    """Try out everything that a run in a machine stands on. Takes 5 s for each accelerator that hangs.

    Whether whole machines run is told by `mxc_ops.doctor`, which has the rest of the way at hand.

    Parameters
    ----------
    backend: who asks: what the probes are called after, and what is prepared to mend them.
    image: the one that its machines start from, unless another is named.
    features: those that were asked for: without them this host is not ready.
    """
    qemu = find_qemu()
    host = observe()
    version = _qemu_probe(backend, qemu)
    rest = [_virtualisation(backend, host), _confinement(backend)]
    rest += network_probes(backend, features, routed=True)
    rest += [image_tools_probe(backend, _tools(), features)]
    rest += [image_probe(backend, image)] if "image" in features else []
    if qemu is None or version.health is Health.FAILED:
        return [version, device_probe(backend, host, kvm_works=None), *rest]
    machine = machine_type(qemu)
    verdicts = {name: try_accelerator(qemu, name, machine=machine) for name in ACCELERATORS}
    return [
        version,
        *accelerator_probes(backend, verdicts, host),
        device_probe(backend, host, kvm_works=verdicts["kvm"].works),
        *rest,
    ]


def _prepare(backend: str, *features: str) -> str:
    return " ".join(
        ["mxc-ops prep host --backend", backend, *(f"--feature {one}" for one in features), "--yes"]
    )


def _qemu_probe(backend: str, qemu: str | None) -> Probe:
    identifier, why = f"{backend}.qemu", "it runs the machines"
    if os.uname().machine != "x86_64":
        seen = f"this is {os.uname().machine}; our machines are for x86_64"
        return Probe(identifier, Health.FAILED, seen, why, privilege="whoever provides the host")
    if qemu is None:
        return Probe(
            identifier, Health.FAILED, "QEMU for x86_64 is not installed", why, _prepare(backend), "root"
        )
    status, said = _ask(qemu, "--version")
    if status != 0 or not said:
        seen = f"{qemu} does not start: {said[:300]}"
        return Probe(identifier, Health.FAILED, seen, why, _prepare(backend), "root")
    return Probe(identifier, Health.OK, f"{said.splitlines()[0]} at {qemu}", why)


def _ask(*argv: str) -> tuple[int, str]:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_DEADLINE_S,
            env={},
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 1, str(error)
    return done.returncode, done.stdout.strip()


def accelerator_probes(backend: str, verdicts: Mapping[str, Verdict], host: Virtualisation) -> list[Probe]:
    """One probe for each accelerator; one that fails while the other works is a warning. Pure."""
    one_works = any(verdict.works for verdict in verdicts.values())
    found: list[Probe] = []
    for name, verdict in verdicts.items():
        identifier = f"{backend}.accelerator.{name}"
        if verdict.works:
            seen = f"a guest booted and answered in {verdict.took_ms} ms"
            found.append(Probe(identifier, Health.OK, seen, _WHY_ACCELERATOR))
            continue
        health = Health.WARNING if one_works else Health.FAILED
        cause, fix, privilege = remedy(host, _prepare(backend)) if name == "kvm" else _REINSTALL
        why = _COST if name == "kvm" and one_works else _WHY_ACCELERATOR
        seen = f"no guest boots: {verdict.why}; {cause}"
        found.append(Probe(identifier, health, seen, why, fix, privilege))
    return found


def device_probe(backend: str, host: Virtualisation, *, kvm_works: bool | None) -> Probe:
    """Whether those who should may open /dev/kvm. Pure.

    Parameters
    ----------
    kvm_works: None when that could not be tried.
    """
    identifier, why = f"{backend}.device", "KVM serves whoever may open its device"
    if not host.device:
        return Probe(identifier, Health.OK, "there is no /dev/kvm: TCG is used", why)
    if kvm_works is False and host.accessible:
        return Probe(identifier, Health.OK, f"{host.device}, of no use while KVM does not work", why)
    if host.shared and host.accessible:
        return Probe(identifier, Health.OK, host.device, why)
    cause, fix, privilege = access(host, _prepare(backend))
    return Probe(identifier, Health.WARNING, f"{host.device}: {cause}", why, fix, privilege)


def _virtualisation(backend: str, host: Virtualisation) -> Probe:
    """For the reader: what it means for KVM is told by booting a guest."""
    place = "a virtual machine" if host.below else "a machine of its own"
    modules = [
        f"{name} (nested: {host.nested[name]})" if name in host.nested else name for name in host.modules
    ]
    seen = f"{host.flag or 'neither vmx nor svm'} on {place}; modules: {', '.join(modules) or 'none'}"
    why = "without it a processor cannot run guests itself"
    return Probe(f"{backend}.virtualisation", Health.OK, seen, why)


def _confinement(backend: str) -> Probe:
    identifier, why = (
        f"{backend}.confinement",
        "QEMU is not trusted either: it runs in a sandbox of bubblewrap",
    )
    try:
        helper = find_helper()
        check_helper(helper)
    except MxcError as error:
        return Probe(identifier, Health.FAILED, error.problems[0].message, why, error.fix, "root")
    launcher = find_program(LAUNCHER)
    if launcher is None:
        seen = "our launcher is not built from these sources"
        return Probe(identifier, Health.FAILED, seen, why, _prepare(backend), "root")
    return Probe(identifier, Health.OK, f"bwrap {helper.version} at {helper.path}, and {launcher}", why)


def _tools() -> dict[str, str]:
    """What is made → the program found for it, "" when there is none."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return {
        made: next((name for name in names if shutil.which(name, path=path)), "")
        for made, names in IMAGE_TOOLS.items()
    }


def image_probe(backend: str, image: str, stores: Sequence[str] = ()) -> Probe:
    """Whether there is an image to start machines from.

    Parameters
    ----------
    image: its name.
    stores: directories to look into; by default the system's and, for a user, their own.
    """
    identifier, why = f"{backend}.image", "machines start from it"
    places = stores or (IMAGE_STORE, *([f"{os.path.dirname(user_store())}/images"] if os.geteuid() else []))
    for store in places:
        if os.path.isfile(f"{store}/names/{image}/image.json"):
            return Probe(identifier, Health.OK, f"{image} is in {store}", why)
    seen = f"there is no image {image!r} in {' or '.join(places)}"
    return Probe(identifier, Health.FAILED, seen, why, _prepare(backend, "build", "image"), "root")


def image_tools_probe(backend: str, tools: Mapping[str, str], features: Collection[str] = ()) -> Probe:
    """Whether images can be built here. Pure.

    Parameters
    ----------
    tools: as `IMAGE_TOOLS`, with the program found for each; "" for none.
    features: with ``build`` they must be.
    """
    identifier, why = f"{backend}.image-tools", "images are built here, or brought from a host that can"
    missing = [f"{made} ({' or '.join(IMAGE_TOOLS[made])})" for made, name in tools.items() if not name]
    if not missing:
        return Probe(identifier, Health.OK, f"{', '.join(tools.values())} are here", why)
    seen = f"missing for {', '.join(missing)}"
    return Probe(identifier, fault_of("build", features), seen, why, _prepare(backend, "build"), "root")
