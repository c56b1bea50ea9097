"""What machines that libvirt keeps need, tried out on this host: what was seen, why it matters, the fix."""

from __future__ import annotations

import json
import os
from typing import Any

from backends.linux.groups import joining
from backends.linux.virtualisation import observe, remedy
from backends.needs import Health, Probe
from backends.vm.needs import NAME
from backends.vm.on_host import SYSTEM, TRIAL, command

__all__ = ["probe"]

_DEADLINE_S = 60  # the first connection looks at every QEMU, for seconds
_PREPARE = "mxc-ops prep host --backend vm --feature libvirt --yes"
_GROUP = "libvirt"  # libvirt's polkit rules and socket name it in every distribution
_WHY = {
    "connection": "networks, images and virtual machines are asked for there",
    "accelerators": "a virtual machine is run by QEMU, at full speed only through KVM",
    "network": "virtual machines get their addresses there, and reach others through it",
    "pool": "disk images are kept there",
    "domain": "what libvirt promises, it must also do",
}
_FIX = {
    "connection": _PREPARE,
    "accelerators": _PREPARE,
    "network": _PREPARE,
    "pool": _PREPARE,
    "domain": "tail /var/log/libvirt/qemu/mxc-ops-probe.log",
}


def probe(uri: str = SYSTEM) -> list[Probe]:
    """Try it all as the caller: connect, look at network and pool, make and end a small virtual machine.

    Parameters
    ----------
    uri: of the host's own connection.
    """
    return [_as_probe(check, result) for check, result in _try(uri).items()]


def _try(uri: str) -> dict[str, dict[str, Any]]:
    """Check → ``{"passed", "seen"}``, see `backends.vm.libvirt_trial`."""
    import subprocess

    try:
        done = subprocess.run(
            command(TRIAL, {"uri": uri, "network": NAME, "pool": NAME}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        last = (str(error.stderr).strip().splitlines() or ["nothing was said"])[-1]
        return {"connection": {"passed": False, "seen": last}}
    except (OSError, subprocess.SubprocessError) as error:
        return {"connection": {"passed": False, "seen": _without_the_script(error)}}
    return json.loads(done.stdout)


def _without_the_script(error: Exception) -> str:
    if isinstance(error, OSError):
        return str(error)
    return f"libvirt does not answer within {_DEADLINE_S} s"


def _as_probe(check: str, result: dict[str, Any]) -> Probe:
    identifier = f"vm.libvirt.{check}"
    seen: str = result["seen"]
    if not result["passed"]:
        if check == "connection" and _may_not_ask():
            seen += f"; members of the group {_GROUP} may ask, from their next log-in on"
            return Probe(identifier, Health.FAILED, seen, _WHY[check], joining(_GROUP), "root")
        return Probe(identifier, Health.FAILED, seen, _WHY[check], _FIX[check], "root")
    if check == "accelerators" and "kvm" not in seen.split():
        cause, fix, privilege = remedy(observe(), _PREPARE)
        seen = f"QEMU only emulates here; {cause}"
        return Probe(identifier, Health.WARNING, seen, _WHY[check], fix, privilege)
    return Probe(identifier, Health.OK, seen, _WHY[check])


def _may_not_ask() -> bool:
    """Whether libvirt is here, and the caller neither root nor one of those who may ask it."""
    import grp

    try:
        members = grp.getgrnam(_GROUP)
    except KeyError:
        return False
    return os.geteuid() != 0 and members.gr_gid not in (os.getegid(), *os.getgroups())
