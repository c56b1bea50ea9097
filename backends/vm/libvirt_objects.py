"""Runs on the prepared host: looks at, makes, restores or drops one network or storage pool of its libvirt.

The only argument is the request as JSON: ``action`` (look, have, restore, drop), ``kind`` (network, pool),
``name``, ``xml``, ``uri``. ``look`` prints one JSON document; the others print nothing, or say on standard
error why they failed. An object is ours when it has the UUID that our XML gives.

Python 3.9 must do (RHEL 9). Few apostrophes in here: the text is handed over between two of them.
"""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

_INACTIVE = 1  # VIR_NETWORK_XML_INACTIVE, VIR_STORAGE_XML_INACTIVE
_Element = ElementTree.Element


class RefusedError(Exception):
    """It must not be done."""


@dataclass(frozen=True)
class Found:
    """An object as it is.

    Parameters
    ----------
    thing: the virNetwork or virStoragePool of libvirt.
    users: who needs it: domains, ports of the bridge, volumes. `running`: those for which a restart is felt.
    """

    thing: Any
    ours: bool
    persistent: bool
    active: bool
    autostart: bool
    differs: list[str]
    users: list[str]
    running: list[str]


@dataclass(frozen=True)
class Kind:
    """What differs between networks and pools."""

    all: Callable[[Any], list[Any]]
    define: Callable[[Any, str], Any]
    users: Callable[[Any, str, Any], tuple[list[str], list[str]]]


def look(kind: Kind, connection: Any, request: dict[str, Any]) -> Found | None:
    """The object of that name, None where there is none."""
    thing = next((thing for thing in kind.all(connection) if thing.name() == request["name"]), None)
    if thing is None:
        return None
    wanted = _parsed(request["xml"])
    persistent = bool(thing.isPersistent())
    users, running = kind.users(connection, request["name"], thing)
    return Found(
        thing,
        ours=thing.UUIDString() == wanted.findtext("uuid"),
        persistent=persistent,
        active=bool(thing.isActive()),
        autostart=persistent and bool(thing.autostart()),
        differs=_differs(wanted, thing) if persistent else ["it is gone after a restart of libvirt"],
        users=users,
        running=running,
    )


def _parsed(text: str) -> _Element:
    return ElementTree.fromstring(text)  # noqa: S314 - written by us or by the host for itself


def _differs(wanted: _Element, thing: Any) -> list[str]:
    """Where the definition, or what is in force, is not what we set; libvirt adds much of its own to both."""
    states = [thing.XMLDesc(0)]
    if thing.isActive():
        with suppress(
            Exception
        ):  # libvirt itself has a driver, for tests, that does not tell one from the other
            states.append(thing.XMLDesc(_INACTIVE))
    return list(dict.fromkeys(line for state in states for line in _differences(wanted, _parsed(state), "")))


def _differences(wanted: _Element, found: _Element, above: str) -> Iterator[str]:
    here = f"{above}{wanted.tag}"
    text, other_text = ((element.text or "").strip() for element in (wanted, found))
    if text and text != other_text:
        yield f"{here} is {other_text}, not {text}"
    for name, value in wanted.attrib.items():
        if found.get(name) != value:
            yield f"{here} {name} is {found.get(name)}, not {value}"
    for tag in dict.fromkeys(child.tag for child in wanted if child.tag != "uuid"):
        ours, theirs = wanted.findall(tag), found.findall(tag)
        if len(ours) != len(theirs):
            yield f"{here} has {len(theirs)} {tag}, not {len(ours)}"
            continue
        for one, other in zip(ours, theirs):  # noqa: B905 - as long as each other; strict= came with 3.10
            yield from _differences(one, other, f"{here} ")


def _network_users(connection: Any, name: str, network: Any) -> tuple[list[str], list[str]]:
    """Domains with an interface on it, and whatever else sits on its bridge."""
    bridge = network.bridgeName() if network.isActive() else ""
    users: list[str] = []
    running: list[str] = []
    ports = _ports(bridge) - {f"{bridge}-nic"}
    for domain in sorted(connection.listAllDomains(0), key=lambda domain: domain.name()):
        taps = _taps(_parsed(domain.XMLDesc(0)), name, bridge)
        if taps:
            users.append(f"domain {domain.name()}")
            running += users[-1:] if domain.isActive() else []
            ports -= taps
    others = [f"interface {port}" for port in sorted(ports)]
    return users + others, running + others


def _ports(bridge: str) -> set[str]:
    folder = f"/sys/class/net/{bridge}/brif"
    return set(os.listdir(folder)) if bridge and os.path.isdir(folder) else set()


def _taps(domain: _Element, name: str, bridge: str) -> set[str]:
    """The devices of its interfaces on a network; "" for one of a domain that is off."""
    found: set[str] = set()
    for interface in domain.iterfind("devices/interface"):
        source, target = interface.find("source"), interface.find("target")
        if source is None:
            continue
        if source.get("network") == name or (bridge and source.get("bridge") == bridge):
            found.add(target.get("dev", "") if target is not None else "")
    return found


def _pool_users(connection: Any, name: str, pool: Any) -> tuple[list[str], list[str]]:
    """Its volumes, those too that libvirt has not noticed yet."""
    del connection, name
    path = _parsed(pool.XMLDesc(0)).findtext("target/path") or ""
    names = set(pool.listVolumes() if pool.isActive() else []) | set(
        os.listdir(path) if os.path.isdir(path) else []
    )
    volumes = [f"volume {volume}" for volume in sorted(names)]
    return volumes, volumes


KINDS = {
    "network": Kind(
        lambda connection: connection.listAllNetworks(0),
        lambda connection, text: connection.networkDefineXML(text),
        _network_users,
    ),
    "pool": Kind(
        lambda connection: connection.listAllStoragePools(0),
        lambda connection, text: connection.storagePoolDefineXML(text, 0),
        _pool_users,
    ),
}


def have(kind: Kind, connection: Any, request: dict[str, Any]) -> None:
    """Defined as our XML says, active, started with libvirt. What is not ours is never redefined."""
    found = look(kind, connection, request)
    thing = found.thing if found else None
    if found is None or found.differs:
        if found and not found.ours:
            raise RefusedError(f"there is one of that name that is not ours: {found.differs[0]}")
        if found and found.running:
            raise RefusedError(f"used by {found.running[0]}: {found.differs[0]}")
        if found and found.active:
            found.thing.destroy()
        thing = kind.define(connection, request["xml"])
    _put(thing, active=True, autostart=True)


def restore(kind: Kind, connection: Any, request: dict[str, Any]) -> None:
    """Active or not, started with libvirt or not, as it was before us."""
    found = look(kind, connection, request)
    if found:
        _put(found.thing, active=request["active"], autostart=request["autostart"])


def _put(thing: Any, *, active: bool, autostart: bool) -> None:
    if bool(thing.isActive()) != active:
        thing.create() if active else thing.destroy()
    if bool(thing.autostart()) != autostart:
        thing.setAutostart(int(autostart))


def drop(kind: Kind, connection: Any, request: dict[str, Any]) -> None:
    """Gone, if it is ours and nobody but those of ``despite`` uses it."""
    found = look(kind, connection, request)
    if found is None:
        return
    others = [user for user in found.users if user not in request["despite"]]
    if not found.ours or others:
        raise RefusedError(f"used by {others[0]} by now" if found.ours else "it is not ours any more")
    if found.active:
        found.thing.destroy()
    if found.persistent:
        found.thing.undefine()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked. What ``look`` saw, without what only this process can use; else nothing."""
    libvirt: Any = import_module("libvirt")
    libvirt.registerErrorHandler(_quiet, None)
    connection = libvirt.open(request["uri"])
    kind = KINDS[request["kind"]]
    if request["action"] == "look":
        found = look(kind, connection, request)
        seen = (
            {} if found is None else {name: value for name, value in vars(found).items() if name != "thing"}
        )
        return {"defined": found is not None, **seen}
    {"have": have, "restore": restore, "drop": drop}[request["action"]](kind, connection, request)
    return {}


def _quiet(_context: object, _error: object) -> None:
    """What libvirt raises it also prints, unless there is a handler."""


def main() -> int:
    """0: done. What fails while it looks is an answer too."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    try:
        seen = answer(request)
    except Exception as error:
        if request["action"] != "look":
            print(error, file=sys.stderr)
            return 1
        seen = {"error": str(error)}
    if seen:
        print(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
