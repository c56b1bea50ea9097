"""Runs on the host: asks its libvirt whether virtual machines can be run; makes a domain and ends it.

The only argument is the request as JSON: ``uri``, ``network``, ``pool``. Prints one JSON document: check →
``{"passed", "seen"}``. Without a connection there is only that check.

Python 3.9 must do (RHEL 9). Few apostrophes in here: the text is handed over between two of them.
"""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib import import_module
from typing import Any

_PAUSED, _AUTODESTROY = 1, 2  # VIR_DOMAIN_START_PAUSED, VIR_DOMAIN_START_AUTODESTROY
# One name for all trials: libvirt keeps a log file for each name.
_DOMAIN = """\
<domain type="qemu">
  <name>mxc-ops-probe</name>
  <memory unit="MiB">32</memory>
  <vcpu>1</vcpu>
  <os><type arch="{machine}">hvm</type></os>
  <devices><controller type="usb" model="none"/><memballoon model="none"/></devices>
</domain>
"""


class FailedError(Exception):
    """A check did not pass."""


def accelerators(connection: Any) -> str:
    """What runs whole machines of this kind here. Raises `FailedError` when nothing does."""
    machine = os.uname().machine
    capabilities = ElementTree.fromstring(connection.getCapabilities())  # noqa: S314 - the host trusts it too
    kinds = [
        domain.get("type", "")
        for guest in capabilities.iterfind("guest")
        if guest.findtext("os_type") == "hvm"
        for domain in guest.iterfind(f"arch[@name='{machine}']/domain")
    ]
    if not kinds:
        raise FailedError(f"libvirt found no QEMU for {machine}")
    return f"{machine} is run by {' and '.join(sorted(kinds))}"


def active(listed: Callable[[int], list[Any]], name: str) -> str:
    """Whether a network or pool of that name is there and active. Raises `FailedError` when it is not."""
    states = [bool(thing.isActive()) for thing in listed(0) if thing.name() == name]
    if not any(states):
        raise FailedError(f"{name} is not active" if states else f"{name} is not defined")
    return f"{name} is active"


def domain(connection: Any) -> str:
    """A domain without disks, made paused and ended; it ends with our connection in any case."""
    text = _DOMAIN.format(machine=os.uname().machine)
    connection.createXML(text, _PAUSED | _AUTODESTROY).destroy()
    return "a virtual machine was made, paused, and ended"


def tried(check: Callable[..., str], *arguments: Any) -> dict[str, Any]:
    """What came of a check; whatever it raises, libvirt or we, says why it has not passed."""
    try:
        return {"passed": True, "seen": check(*arguments)}
    except Exception as error:
        return {"passed": False, "seen": str(error)}


def answers(connections: list[Any], uri: str) -> str:
    """Add a connection. Raises what libvirt raises, or `ImportError` without its module."""
    libvirt: Any = import_module("libvirt")
    libvirt.registerErrorHandler(_quiet, None)
    connections.append(libvirt.open(uri))
    return f"libvirt answers at {connections[0].getURI()}"


def _quiet(_context: object, _error: object) -> None:
    """What libvirt raises it also prints, unless there is a handler."""


def main() -> None:
    """Ends with 0: a check that fails is an answer too."""
    request: dict[str, str] = json.loads(sys.argv[1])
    connections: list[Any] = []
    seen = {"connection": tried(answers, connections, request["uri"])}
    for connection in connections:
        seen["accelerators"] = tried(accelerators, connection)
        seen["network"] = tried(active, connection.listAllNetworks, request["network"])
        seen["pool"] = tried(active, connection.listAllStoragePools, request["pool"])
        seen["domain"] = tried(domain, connection)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
