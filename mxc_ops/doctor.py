"""Whether this host is ready, found out by doing it: each backend's own probes, then whole sandboxes.

Every containment that exists on this platform can be probed. Whole bubblewrap sandboxes are run: as the
caller and, when that is root, by an unprivileged caller as well. A whole container, or virtual machine, is
run where there is an image for it. Other hosts are examined by `mxc_ops.prep.engine.examining`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from backends import registry
from backends.base import Limits, SandboxRequest, Timeout
from backends.errors import BackendUnavailable, MxcError, Problem, UnsupportedContainment, UsageError
from backends.hyperlight_settings import Driver, HyperlightSettings, Runtime
from backends.needs import Health, Probe, require_known_features
from backends.virtual_machine import CommandKind, VirtualMachine
from backends.wslc_settings import WslcSettings
from mxc_ops.policy import machine

if TYPE_CHECKING:
    from mxc_ops.result import Result

__all__ = ["Report", "examine", "obstacle"]

_DEADLINE_MS = 20_000
_TESTIMONY = (
    "cat /proc/self/status; for path in %s; do [ -e $path ] && leak=$path; done;"
    " echo Leak: ${leak:-none}; echo Interfaces: $(grep -c : /proc/net/dev)"
)
_SECRETS = {"bubblewrap": "/etc/shadow /root /home", "lxc": "/etc/shadow /root/* /home/*"}
"""What of the host's nobody sees; a container has a /root and a /home of its own."""
_REPORT = "please report this, with what the command prints"
_WHY_WHOLE = "the whole way, from request to result"
_WHY_UNPRIVILEGED = "users without root's rights can run sandboxes"
_PLATFORMS = {"linux": "Linux", "win32": "Windows", "darwin": "macOS"}
_PROMISES = {
    "CapEff": "0000000000000000",
    "CapBnd": "0000000000000000",
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "Leak": "none",
    "Interfaces": "1",
}
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MACHINE_TESTIMONY = (
    f"cat /proc/self/status; read boot < {_BOOT_ID}; [ $boot = %s ] && kernel=ours;"
    " echo Kernel: ${kernel:-another}; echo Routes: $(grep -vc ^Iface /proc/net/route)"
)
_MACHINE_PROMISES = {
    **{key: _PROMISES[key] for key in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")},
    "Kernel": "another",
    "Routes": "0",
}
_IMAGES = ("tiny", "base", "python")
"""The images that we have recipes for, the smallest first: each can run a line of shell."""


@dataclass(frozen=True)
class Report:
    """Every probe that was made; identifiers start with the backend's name."""

    probes: tuple[Probe, ...]

    @property
    def exit_code(self) -> int:
        """0 ready, 1 not, 2 ready with warnings."""
        found = {probe.health for probe in self.probes}
        if Health.FAILED in found:
            return 1
        return 2 if Health.WARNING in found else 0


def examine(backends: Sequence[str] = (), features: Sequence[str] = ()) -> Report:
    """Probe the given backends; by default the one that runs where a document names none.

    Parameters
    ----------
    features: see `backends.needs.FEATURES`; what one of these lacks is a failure, not a warning.

    Raises `UnsupportedContainment` for a name that cannot be examined here, `UsageError` for a name that
    nobody knows. Everything else that goes wrong is a probe.
    """
    require_known_features(features)
    names = tuple(dict.fromkeys(backends)) or (registry.resolve_intent(None, sys.platform),)
    for name in names:
        _check(name)
    return Report(tuple(probe for name in names for probe in _examine(name, features)))


def obstacle(name: str, platform: str) -> str:
    """Why a containment cannot be examined on a platform (as `sys.platform`); "" when it can."""
    entry = registry.CONTAINMENTS.get(name)
    if entry is None:
        return "no version of MXC knows it"
    if platform not in entry.platforms:
        return entry.why or f"it exists on {' and '.join(_PLATFORMS[one] for one in entry.platforms)} only"
    return "" if _package(name) else entry.why


def _package(name: str) -> str:
    """The package that has the containment's probes; "" when mxc-ops has nothing of it."""
    entry = registry.CONTAINMENTS[name]
    return entry.module or (entry.needs or "").rpartition(".")[0]


def _check(name: str) -> None:
    trouble = obstacle(name, sys.platform)
    if not trouble:
        return
    entry = registry.CONTAINMENTS.get(name)
    if entry is None:
        known = ", ".join(registry.CONTAINMENTS)
        message = f"no containment is called {name!r}"
        raise UsageError(Problem("unknown_containment", "--backend", message, expected=f"one of {known}"))
    there = f"mxc-ops doctor --inventory FILE --backend {name}" if "win32" in entry.platforms else ""
    here = [known for known in registry.CONTAINMENTS if not obstacle(known, sys.platform)]
    raise UnsupportedContainment(
        Problem(
            "containment_not_available",
            "--backend",
            f"{name!r} cannot be examined: {trouble}",
            expected="one of " + ", ".join(here),
            fix=there,
        )
    )


def _examine(name: str, features: Sequence[str]) -> list[Probe]:
    probes = _own_probes(name, features)
    root = os.geteuid() == 0
    identifier = f"{name}.sandbox.{'root' if root else 'caller'}"
    if name in machine.CONTAINMENTS:
        return [*probes, *([_run_machine(name, identifier)] if _is_carried(name, probes) else [])]
    if registry.CONTAINMENTS[name].module is None:
        return probes
    if name == "lxc":
        return [*probes, _run_container(identifier)]
    whole = [_run_sandbox(name, identifier)]
    whole += [_run_unprivileged(name, f"{name}.sandbox.unprivileged")] if root else []
    return [*probes, *whole]


def _is_carried(name: str, probes: Sequence[Probe]) -> bool:
    """Whether guests boot here and QEMU can be confined: else the probes have told why no machine runs."""
    needed = (f"{name}.probes", f"{name}.qemu", f"{name}.confinement", f"{name}.accelerator")
    return not [
        probe for probe in probes if probe.health is Health.FAILED and probe.identifier.startswith(needed)
    ]


def _own_probes(name: str, features: Sequence[str]) -> list[Probe]:
    try:
        probes: list[Probe] = import_module(f"{_package(name)}.probe").probe(features)
    except Exception as error:
        # What is wrong with one backend must not hide what the others have to tell.
        seen = f"the probes broke: {type(error).__name__}: {error}; {_REPORT}"
        why = "nothing is known of this backend without them"
        return [Probe(f"{name}.probes", Health.FAILED, seen, why, _in_full(name))]
    return probes


def _run_sandbox(name: str, identifier: str) -> Probe:
    request = SandboxRequest(
        name,
        shell=_TESTIMONY % _SECRETS[name],
        limits=Limits(memory_mib=256, pids=32),
        timeout=Timeout(_DEADLINE_MS),
    )
    result = _testify(request, identifier, _PROMISES)
    if isinstance(result, Probe):
        return result
    held = ", ".join(f"{limit.name} by {limit.mechanism}" for limit in result.limits[:2])
    identity = dict(result.enforced)["identity"]
    seen = f"ran as {identity}, without capabilities, network or the host's secrets; {held}"
    return Probe(identifier, Health.OK, seen, _WHY_WHOLE)


def _run_container(identifier: str) -> Probe:
    """The same in a container, from the image that containers start from; it is not built for this."""
    from vm_images.store import CONTAINERS

    try:
        image = _first_image((CONTAINERS,))
    except MxcError as error:
        return _failed("lxc", identifier, error, _WHY_WHOLE)
    if not image:
        seen = f"not tried: the image {CONTAINERS} is not here"
        return Probe(identifier, Health.WARNING, seen, _WHY_WHOLE, f"mxc-ops image build {CONTAINERS}")
    return _run_sandbox("lxc", identifier)


def _run_machine(name: str, identifier: str) -> Probe:
    """The same in a virtual machine, from the smallest image there is. None is built for it: the first run
    after an image was built takes some seconds to make a template of it, as any run does.
    """
    try:
        import_module("qemu.qmp")
    except ImportError:
        seen = "not tried: Python's package qemu.qmp, which mxc-ops is installed with, is not here"
        return Probe(identifier, Health.WARNING, seen, _WHY_WHOLE, privilege="whoever installs mxc-ops here")
    containers = name in machine.OF_CONTAINER_IMAGES
    images = (machine.UTILITY,) if containers else _IMAGES
    try:
        image = _first_image(images)
        root = _first_container() if containers else ""
    except MxcError as error:
        return _failed(name, identifier, error, _WHY_WHOLE)
    if not image:
        seen = f"not tried: none of the images {', '.join(images)} is here"
        return Probe(identifier, Health.WARNING, seen, _WHY_WHOLE, f"mxc-ops image build {images[0]}")
    if containers and not root:
        seen = "not tried: no image of a container that has a shell is here"
        fix = "mxc-ops image import FILE --name alpine:latest"
        return Probe(identifier, Health.WARNING, seen, _WHY_WHOLE, fix)
    line = _MACHINE_TESTIMONY % Path(_BOOT_ID).read_text().strip()
    vm = VirtualMachine(image, command=CommandKind.SHELL)
    runtime = HyperlightSettings(Runtime.AGENT, Driver.QEMU) if name in machine.OF_RUNTIMES else None
    settings = WslcSettings(image=root) if containers else None
    request = SandboxRequest(
        name, shell=line, vm=vm, hyperlight=runtime, wslc=settings, timeout=Timeout(_DEADLINE_MS)
    )
    result = _testify(request, identifier, _MACHINE_PROMISES)
    if isinstance(result, Probe):
        return result
    isolation = dict(result.enforced)["isolation"]
    seen = f"ran in {isolation}, from the image {image}, without capabilities or a route to any network"
    return Probe(identifier, Health.OK, seen, _WHY_WHOLE)


def _first_container() -> str:
    """The key of an image of a container that has a shell; "" where there is none."""
    from vm_images.oci.inventory import everything

    images, _broken = everything()
    return next((image.key for image in images if image.manifest["shell"]), "")


def _first_image(names: Sequence[str]) -> str:
    """The first of them that is here; "" when none is. Raises `BackendUnavailable` for one that is spoilt."""
    from vm_images.store import find_image

    for name in names:
        try:
            return find_image(name).name
        except BackendUnavailable as error:
            if error.problems[0].code != "no_image":
                raise
    return ""


def _testify(request: SandboxRequest, identifier: str, promises: Mapping[str, str]) -> Result | Probe:
    """Run a sandbox that testifies: its result, or a failure when not every promise was seen kept inside."""
    from mxc_ops.one_shot import run

    try:
        result = run(request)
    except (MxcError, OSError) as error:
        return _failed(request.containment, identifier, error, _WHY_WHOLE)
    testimony = read_testimony(result.stdout.decode(errors="replace"))
    broken = [
        f"{key} is {testimony.get(key, 'not told')}, not {promised}"
        for key, promised in promises.items()
        if testimony.get(key) != promised
    ]
    if not broken:
        return result
    said = result.stderr.decode(errors="replace").strip()
    seen = "; ".join([*broken, *([f"it said: {said[:300]}"] if said else []), _REPORT])
    return Probe(identifier, Health.FAILED, seen, _WHY_WHOLE, _in_full(request.containment))


def read_testimony(text: str) -> dict[str, str]:
    """``Key: value`` lines as a dictionary."""
    lines = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, colon, value in lines if colon}


def _run_unprivileged(name: str, identifier: str) -> Probe:
    """The same, called by somebody without rights: in a child of ours, as our files may be root's alone."""
    from backends.linux.other_user import probe_as
    from backends.linux.uid_range import configured_range, lease

    why = _WHY_UNPRIVILEGED
    try:
        uids = configured_range()
        if uids is None:
            return Probe(
                identifier, Health.FAILED, "no uid of ours to try it with", why, _prepare(name), "root"
            )
        held = lease(uids)
    except (MxcError, OSError) as error:
        return _failed(name, identifier, error, why)
    try:
        found = probe_as(held.uid, lambda: _run_sandbox(name, identifier))
    finally:
        os.close(held.lock)
    if found is None:
        return Probe(identifier, Health.FAILED, "the attempt ended without an answer", why, _in_full(name))
    return found


def _failed(name: str, identifier: str, error: MxcError | OSError, why: str) -> Probe:
    if isinstance(error, OSError):
        return Probe(identifier, Health.FAILED, f"the system refused: {error}", why, _in_full(name))
    message = error.problems[0].message
    if error.fix.startswith("mxc-ops "):
        privilege = "root" if "prep host" in error.fix else "none"
        return Probe(identifier, Health.FAILED, message, why, error.fix, privilege)
    # What callers are told to do may be more than a command.
    seen = f"{message}; {error.fix}" if error.fix else message
    return Probe(identifier, Health.FAILED, seen, why, _in_full(name))


def _prepare(name: str) -> str:
    return f"mxc-ops prep host --backend {name} --yes"


def _in_full(name: str) -> str:
    return f"mxc-ops doctor --backend {name} --json"
