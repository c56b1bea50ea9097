"""What LXC needs, tried out on this host: each probe says what was seen, why it matters, the fix."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Collection, Sequence

from backends.errors import MxcError
from backends.inside.store import LAUNCHER, find_program
from backends.launched.agent_program import probe_agent
from backends.linux.host_probes import probe_limits, probe_range
from backends.lxc.apparmor import FIX as APPARMOR_FIX
from backends.lxc.apparmor import PROFILE, is_loaded, is_on, loaded_profiles, switch
from backends.lxc.needs import BRIDGE, TABLE
from backends.lxc.observe import find_starter, version_of
from backends.lxc.users import own_namespace
from backends.needs import Health, Probe, fault_of

__all__ = ["apparmor", "probe"]

_FIX = "mxc-ops prep host --backend lxc --yes"
_POLICY_FIX = "mxc-ops prep host --backend lxc --feature network --yes"
_ROOTLESS_FIX = "mxc-ops prep host --backend lxc --feature rootless --yes"
_DOCTOR = "mxc-ops doctor --backend lxc"
_BRIDGED = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
_MADE_BY_USERS = "kernel.unprivileged_userns_clone"
_DEADLINE_S = 20
_SIOCGIFADDR = 0x8915  # netdevice(7)
_WHY = {
    "lxc.tools": "it makes the namespaces and mounts of every container, by the keys that LXC 5.0 has",
    "lxc.launcher": "it makes the root of a container, and sets limits and the last seccomp filter inside",
    "lxc.ids": "the ids of a container, its root's too, are mapped to ids that are nobody's",
    "lxc.apparmor": "LXC starts a container under one of its own profiles, unless it is told another",
    "lxc.bridge": "containers with a network are attached to it",
    "lxc.nat": "containers reach other networks under the host's address",
    "lxc.network": "what containers send each other is seen by the rules that hold a network policy",
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
        _bridge("lxc.bridge", features),
        _nat("lxc.nat", features),
        probe_agent("lxc", features),
        *([_policy("lxc.network")] if "network" in features else []),
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


def _warning(identifier: str, seen: str, fix: str = _FIX) -> Probe:
    return Probe(identifier, Health.WARNING, seen, _WHY[identifier], fix, "root")


def _without_network(identifier: str, seen: str, features: Collection[str]) -> Probe:
    health = fault_of("network", features)
    return Probe(identifier, health, seen, _WHY[identifier], _FIX, "root")


def _not_tried(identifier: str, features: Collection[str]) -> Probe:
    return _warning(identifier, "not tried: it takes root's rights", _as_root(features))


def _as_root(features: Collection[str]) -> str:
    """The same again; who gives the command gives the rights."""
    return " ".join([_DOCTOR, *(f"--feature {feature}" for feature in features)])


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
    return [_warning(identifier, seen, APPARMOR_FIX)]


def _bridge(identifier: str, features: Collection[str]) -> Probe:
    """By /sys and /proc, which everybody may read."""
    device = f"/sys/class/net/{BRIDGE}"
    if not os.path.isdir(f"{device}/bridge"):
        return _without_network(identifier, f"no bridge {BRIDGE}: containers have no network", features)
    if not int(_read(f"{device}/flags"), 16) & 1:  # IFF_UP, netdevice(7)
        return _without_network(identifier, f"{BRIDGE} is down", features)
    address = _address()
    if not address:
        return _without_network(identifier, f"{BRIDGE} has no address", features)
    return _ok(identifier, f"{BRIDGE} is up, with {address}")


def _address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", BRIDGE.encode()))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def _nat(identifier: str, features: Collection[str]) -> Probe:
    if _read("/proc/sys/net/ipv4/ip_forward").strip() != "1":
        seen = "net.ipv4.ip_forward is off: the host forwards nothing"
        return _without_network(identifier, seen, features)
    if os.geteuid() != 0:
        return _not_tried(identifier, features)
    if shutil.which("nft") is None:
        return _without_network(identifier, "nft not found", features)
    if "masquerade" not in _said(["nft", "list", "table", "inet", TABLE]):
        seen = f"nftables has no NAT in a table inet {TABLE}"
        return _without_network(identifier, seen, features)
    return _ok(identifier, f"table inet {TABLE} translates what leaves {BRIDGE}")


def _policy(identifier: str) -> Probe:
    """By /proc, which everybody may read; each network namespace has switches of its own."""
    off = [key for key in _BRIDGED if _read(f"/proc/sys/{key.replace('.', '/')}").strip() != "1"]
    if off:
        return _failed(identifier, f"it is not: {' and '.join(off)} must be 1", _POLICY_FIX)
    return _ok(identifier, f"{' and '.join(_BRIDGED)} are 1")


def _rootless(identifier: str) -> Probe:
    switch = f"/proc/sys/{_MADE_BY_USERS.replace('.', '/')}"
    if os.path.exists(switch) and _read(switch).strip() != "1":
        return _failed(identifier, f"users may make none: {_MADE_BY_USERS} is off", _ROOTLESS_FIX)
    if _read("/proc/sys/user/max_user_namespaces").strip() == "0":
        return _failed(identifier, "nobody may make one: user.max_user_namespaces is 0")
    return _ok(identifier, "no switch of the kernel forbids users to make them")


def _said(command: Sequence[str]) -> str:
    """What a program prints on standard output; "" when it cannot be run, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return "0"
