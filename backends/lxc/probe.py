"""What LXC needs, tried out on this host: each probe says what was seen, why it matters, the fix."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

from backends.errors import MxcError
from backends.inside.store import LAUNCHER, find_program
from backends.launched.agent_program import probe_agent
from backends.linux.host_probes import probe_limits, probe_range
from backends.lxc.apparmor import FIX as APPARMOR_FIX
from backends.lxc.apparmor import PROFILE, is_loaded, is_on, loaded_profiles, switch
from backends.lxc.observe import find_starter, version_of
from backends.lxc.users import own_namespace
from backends.needs import Health, Probe
from backends.network.probe import network_probes

__all__ = ["apparmor", "probe"]

_FIX = "mxc-ops prep host --backend lxc --yes"
_ROOTLESS_FIX = "mxc-ops prep host --backend lxc --feature rootless --yes"
_DOCTOR = "mxc-ops doctor --backend lxc"
_MADE_BY_USERS = "kernel.unprivileged_userns_clone"
_WHY = {
    "lxc.tools": "it makes the namespaces and mounts of every container, by the keys that LXC 5.0 has",
    "lxc.launcher": "it makes the root of a container, and sets limits and the last seccomp filter inside",
    "lxc.ids": "the ids of a container, its root's too, are mapped to ids that are nobody's",
    "lxc.apparmor": "LXC starts a container under one of its own profiles, unless it is told another",
    "lxc.rootless": "a container of a user's is a user namespace that the user makes",
}


def probe(features: Collection[str] = ()) -> list[Probe]:
    """Try everything that a container stands on, with the rights of the caller; what takes root's says so.

    Whether whole containers run is told by `mxc_ops.doctor`, which has images at hand.

    Parameters
    ----------
    features: those that were asked for: without them this host is not ready.
    """
    return [
        _guard("lxc.tools", _tools),
        _guard("lxc.launcher", _launcher),
        _guard("lxc.ids", _ids),
        *apparmor("lxc.apparmor", switch(), loaded_profiles()),
        probe_limits("lxc.limits", _DOCTOR),
        *network_probes("lxc", features),
        probe_agent("lxc", features),
        *([_rootless("lxc.rootless")] if "rootless" in features else []),
    ]


def _guard(identifier: str, look: Callable[[str], Probe]) -> Probe:
    """A probe that raises has failed, with the error's own words and fix."""
    try:
        return look(identifier)
    except MxcError as error:
        return _failed(identifier, error.problems[0].message, error.fix)


def _ok(identifier: str, seen: str) -> Probe:
    return Probe(identifier, Health.OK, seen, _WHY[identifier])


def _failed(identifier: str, seen: str, fix: str = _FIX) -> Probe:
    return Probe(identifier, Health.FAILED, seen, _WHY[identifier], fix, "root")


def _tools(identifier: str) -> Probe:
    starter = find_starter()
    return _ok(identifier, f"LXC {version_of(starter)} at {starter}")


def _launcher(identifier: str) -> Probe:
    launcher = find_program(LAUNCHER)
    if launcher is None:
        return _failed(identifier, "not built from these sources")
    return _ok(identifier, f"built from the current sources: {launcher}")


def _ids(identifier: str) -> Probe:
    if os.geteuid() == 0:
        return probe_range(identifier, _FIX)
    granted = own_namespace().ids[0]
    seen = f"the root of your containers is uid {granted.uid} here, which the host grants you"
    return _ok(identifier, seen)


def apparmor(identifier: str, enabled: str, profiles: str | None) -> list[Probe]:
    """A warning where AppArmor is on without LXC's profile; nothing where all is well, or cannot be told.

    Parameters
    ----------
    enabled, profiles: see `backends.lxc.apparmor`.
    """
    if not is_on(enabled) or profiles is None or is_loaded(profiles):
        return []
    seen = f"AppArmor is on, and no profile {PROFILE} is loaded"
    return [Probe(identifier, Health.WARNING, seen, _WHY[identifier], APPARMOR_FIX, "root")]


def _rootless(identifier: str) -> Probe:
    switch = f"/proc/sys/{_MADE_BY_USERS.replace('.', '/')}"
    if os.path.exists(switch) and _read(switch).strip() != "1":
        return _failed(identifier, f"users may make none: {_MADE_BY_USERS} is off", _ROOTLESS_FIX)
    if _read("/proc/sys/user/max_user_namespaces").strip() == "0":
        return _failed(identifier, "nobody may make one: user.max_user_namespaces is 0")
    return _ok(identifier, "no switch of the kernel forbids users to make them")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return "0"
