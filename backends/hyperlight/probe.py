"""What Hyperlight needs, tried out on this host: its packages, and a hypervisor that really runs a guest."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Collection
from pathlib import Path

from backends.hyperlight.needs import ENVIRONMENT, REQUIREMENTS
from backends.linux.virtualisation import Virtualisation, observe, remedy
from backends.needs import Health, Probe
from backends.qemu.accelerator import find_qemu, machine_type, try_accelerator

__all__ = ["hypervisor_probe", "probe"]

FIX = "mxc-ops prep host --backend hyperlight --yes"
_DEADLINE_S = 30
_FIRST_LETTERS, _LAST_LETTERS = 80, 100
_MSHV = "/dev/mshv"
_WHY_HYPERVISOR = "every sandbox is a virtual machine, and Hyperlight emulates none"
_ASK = """
import json
from importlib.metadata import distributions
import hyperlight_sandbox, hyperlight_sandbox_backend_wasm
print(json.dumps({found.metadata["Name"]: found.version for found in distributions()}))
"""
_RUN = """
from hyperlight_sandbox import Sandbox
print(Sandbox(backend="wasm", module="python_guest.path").run("print(6 * 7)").stdout)
"""


def probe(_features: Collection[str] = (), environment: str = ENVIRONMENT) -> list[Probe]:
    """Import the packages and run a sandbox with them; without them, boot a guest by KVM if QEMU is here.

    Parameters
    ----------
    _features: none of them needs anything of its own here.
    environment: directory of the Python environment that prep makes.
    """
    machine = os.uname().machine
    if machine != "x86_64":
        why = "its packages are built for x86_64 only"
        seen = f"this is {machine}; an x86_64 host is needed"
        provider = "whoever provides the host"
        return [Probe("hyperlight.machine", Health.FAILED, seen, why, privilege=provider)]
    packages = _packages(environment)
    ran = _run(environment, _RUN) if packages.health is Health.OK else None
    return [packages, hypervisor_probe(ran, _guest_by_kvm(), observe(), has_mshv=Path(_MSHV).exists())]


def _packages(environment: str) -> Probe:
    identifier, why = "hyperlight.packages", "they are what runs the sandboxes"
    unsafe = _unsafe(environment)
    if unsafe:
        return Probe(identifier, Health.FAILED, unsafe, why, FIX, "root")
    status, said = _run(environment, _ASK)
    if status != 0:
        return Probe(identifier, Health.FAILED, f"they cannot be imported: {said}", why, FIX, "root")
    found: dict[str, str] = json.loads(said)
    wrong = [wanted for wanted in REQUIREMENTS if wanted != _pin(wanted, found)]
    if wrong:
        return Probe(identifier, Health.FAILED, f"{environment} lacks {' '.join(wrong)}", why, FIX, "root")
    return Probe(identifier, Health.OK, f"{' '.join(REQUIREMENTS)} in {environment}", why)


def _pin(wanted: str, found: dict[str, str]) -> str:
    name = wanted.partition("==")[0]
    return f"{name}=={found.get(name)}"


def _unsafe(environment: str) -> str:
    """Why nothing of this environment is run; "" when it is root's or ours alone."""
    try:
        status = os.lstat(environment)
    except OSError:
        return f"there is no {environment}"
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        return f"{environment} is not a directory that only root may write to"
    return ""


def _run(environment: str, source: str) -> tuple[int, str]:
    """Exit status, and what was printed last, from the environment's Python."""
    try:
        done = subprocess.run(
            [f"{environment}/bin/python3", "-I", "-B", "-c", source],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_DEADLINE_S,
            cwd="/",
            env={},
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 1, str(error)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else f"it ended with {done.returncode}"
    return done.returncode, last if done.returncode == 0 else _shortened(last)


def _shortened(message: str) -> str:
    """Its beginning and its end: Hyperlight repeats each cause in the message of each error around it."""
    if len(message) <= _FIRST_LETTERS + _LAST_LETTERS:
        return message
    return f"{message[:_FIRST_LETTERS]} … {message[-_LAST_LETTERS:]}"


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
        seen = f"no sandbox runs: {ran[1]}"
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
