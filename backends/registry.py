"""Containment name → backend module, imported only when asked for.

Spec: config-schema.md §2 (values, intents, aliases).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from backends.base import Backend
from backends.errors import Problem, UnsupportedContainment
from backends.frozen import frozen

_POINTER = "/containment"

ALIASES: Mapping[str, str] = {"appcontainer": "processcontainer", "macos_sandbox": "seatbelt"}

_PROCESS_BY_PLATFORM: Mapping[str, str] = {
    "linux": "bubblewrap",
    "win32": "processcontainer",
    "darwin": "seatbelt",
}
_VM_BY_PLATFORM: Mapping[str, str] = {"win32": "windows_sandbox"}


@frozen
class Entry:
    """One containment: `module` is None while mxc-ops has no backend for it, and `why` says so.

    `needs` is the module that lists what a host must have for it; None: there is nothing to prepare.
    """

    module: str | None
    platforms: tuple[str, ...]
    why: str = ""
    needs: str | None = None


CONTAINMENTS: Mapping[str, Entry] = {
    "bubblewrap": Entry("backends.bubblewrap", ("linux",), needs="backends.bubblewrap.needs"),
    "lxc": Entry("backends.lxc", ("linux",), needs="backends.lxc.needs"),
    "microvm": Entry("backends.microvm", ("linux",), needs="backends.microvm.needs"),
    "vm": Entry("backends.vm", ("linux",), needs="backends.vm.needs"),
    "hyperlight": Entry("backends.hyperlight", ("linux", "win32"), needs="backends.hyperlight.needs"),
    "wslc": Entry("backends.wslc", ("linux", "win32"), needs="backends.wslc.needs"),
    "windows_sandbox": Entry(
        None, ("win32",), "Windows Sandbox exists on Windows only", "backends.windows_sandbox.needs"
    ),
    "processcontainer": Entry(
        None, ("win32",), "AppContainer exists on Windows only", "backends.processcontainer.needs"
    ),
    "isolation_session": Entry(
        None, ("win32",), "isolation sessions exist on Windows only", "backends.isolation_session.needs"
    ),
    "seatbelt": Entry(None, ("darwin",), "Seatbelt exists on macOS only"),
}


def resolve_intent(containment: str | None, platform: str) -> str:
    """Turn what a document says into one concrete containment.

    Parameters
    ----------
    containment: the document's value; None and ``process`` mean the platform's own process sandbox,
        ``vm`` its virtual machine.
    platform: as `sys.platform`.

    Raises `UnsupportedContainment` for a name that no version of MXC knows. Rule: config-schema.md §2.
    """
    name = ALIASES.get(containment or "process", containment or "process")
    if name == "process":
        return _PROCESS_BY_PLATFORM.get(platform, "bubblewrap")
    if name == "vm":
        return _VM_BY_PLATFORM.get(platform, "vm")
    if name not in CONTAINMENTS:
        known = ", ".join(["process", *CONTAINMENTS])
        raise UnsupportedContainment(
            Problem("unknown_containment", _POINTER, f"no containment is called {name!r}", expected=known)
        )
    return name


def available() -> tuple[str, ...]:
    """Names of the containments that mxc-ops has a backend for."""
    return tuple(name for name, entry in CONTAINMENTS.items() if entry.module is not None)


def preparable() -> tuple[str, ...]:
    """Names of the containments that a host can be prepared for."""
    return tuple(name for name, entry in CONTAINMENTS.items() if entry.needs is not None)


def get(containment: str) -> Backend:
    """The backend of a concrete containment (see `resolve_intent`).

    Raises `UnsupportedContainment`: known, but not available, and why.
    """
    entry = CONTAINMENTS.get(containment)
    if entry is None or entry.module is None:
        why = entry.why if entry else "no version of MXC knows it"
        raise UnsupportedContainment(
            Problem(
                "containment_not_available",
                _POINTER,
                f"{containment!r} is known, but not available: {why}",
                expected="one of " + ", ".join(available()),
                fix="set containment to 'bubblewrap', or see: mxc-ops backends",
            )
        )
    backend: Backend = import_module(entry.module).BACKEND
    return backend
