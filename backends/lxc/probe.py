"""What LXC needs, tried out on this host: each probe says what was seen, why it matters, the fix."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
from collections.abc import Collection, Sequence

from backends.linux import cgroups
from backends.linux.mountinfo import read_mountinfo
from backends.linux.subordinate_ids import caller_names, ranges_of
from backends.lxc.apparmor import FIX as APPARMOR_FIX
from backends.lxc.apparmor import PROFILE, is_loaded, is_on, loaded_profiles, switch
from backends.lxc.needs import BRIDGE, IMAGE, SUBORDINATE_COUNT, TABLE
from backends.lxc.trial import Trial, said
from backends.needs import Health, Probe, fault_of

__all__ = ["apparmor", "probe"]

_FIX = "mxc-ops prep host --backend lxc --yes"
_POLICY_FIX = "mxc-ops prep host --backend lxc --feature network --yes"
_ROOTLESS_FIX = "mxc-ops prep host --backend lxc --feature rootless --yes"
_DOCTOR = "mxc-ops doctor --backend lxc"
_BRIDGED = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
_MADE_BY_USERS = "kernel.unprivileged_userns_clone"
_CHECK = "where nothing is left to prepare, lxc-checkconfig says what the kernel lacks"
_TOOLS = ("lxc-start", "lxc-attach", "lxc-stop", "lxc-info")
_OLDEST = (5, 0)
_SIOCGIFADDR = 0x8915  # netdevice(7)
_WHY = {
    "lxc.tools": "they drive every container; idmapped root filesystems came with LXC 5.0",
    "lxc.ids": "the ids of a container, its root's too, are mapped to ids that are nobody's",
    "lxc.apparmor": "LXC starts a container under one of its own profiles, unless it is told another",
    "lxc.container": "whether a container runs is only told by running one",
    "lxc.limits": "a limit that nothing holds is refused by name",
    "lxc.bridge": "containers with a network are attached to it",
    "lxc.nat": "containers reach other networks under the host's address",
    "lxc.network": "what containers send each other is seen by the rules that hold a network policy",
    "lxc.rootless": "a container of a user's is a user namespace that the user makes",
}


def probe(features: Collection[str] = (), image: str = IMAGE) -> list[Probe]:
    """Try everything that a container stands on, with the rights of the caller; what takes root's says so.

    Parameters
    ----------
    features: those that were asked for: without them this host is not ready.
    image: the directory of a root filesystem image, as prep installs it.
    """
    ids = _ids("lxc.ids", features)
    return [
        _tools("lxc.tools"),
        ids,
        *apparmor("lxc.apparmor", switch(), loaded_profiles()),
        *_container("lxc.container", "lxc.limits", f"{image}/rootfs", ids, features),
        _bridge("lxc.bridge", features),
        _nat("lxc.nat", features),
        *([_policy("lxc.network")] if "network" in features else []),
        *([_rootless("lxc.rootless")] if "rootless" in features else []),
    ]


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
    missing = [name for name in _TOOLS if shutil.which(name) is None]
    if missing:
        return _failed(identifier, f"{', '.join(missing)} not found")
    version = said(["lxc-start", "--version"]).strip()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST:
        seen = (
            f"LXC {version or 'without a version'}; 5.0 or later is needed, from elsewhere or a later release"
        )
        return _failed(identifier, seen, fix="")
    return _ok(identifier, f"LXC {version}")


def _ids(identifier: str, features: Collection[str]) -> Probe:
    names = caller_names()
    ranges = ranges_of(names, SUBORDINATE_COUNT)
    if ranges is None:
        seen = f"{names[0]} has no {SUBORDINATE_COUNT} ids in /etc/subuid and /etc/subgid"
        return (
            _failed(identifier, seen) if os.geteuid() == 0 else _warning(identifier, seen, _as_root(features))
        )
    if shutil.which("newuidmap") is None or shutil.which("newgidmap") is None:
        return _failed(identifier, "newuidmap and newgidmap not found")
    uid, gid = ranges
    return _ok(identifier, f"containers of {names[0]} have uids from {uid} on, gids from {gid} on")


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


def _container(
    container: str, limits: str, rootfs: str, ids: Probe, features: Collection[str]
) -> list[Probe]:
    """One container for both: it starts, does as it is told, is limited, and ends."""
    if os.geteuid() != 0:
        return [_not_tried(container, features), _not_tried(limits, features)]
    ranges = ranges_of(caller_names(), SUBORDINATE_COUNT)
    why_not = ""
    if not os.path.isdir(rootfs):
        why_not = f"there is no image at {os.path.dirname(rootfs)}"
    elif ids.health is not Health.OK or ranges is None:
        why_not = ids.seen
    elif shutil.which("lxc-start") is None:
        why_not = "lxc-start not found"
    if why_not or ranges is None:
        return [_failed(container, f"not tried: {why_not}"), _failed(limits, f"not tried: {why_not}")]
    groups = cgroups.observe_cgroups()
    found = _tried(container, limits, Trial(rootfs, ranges, groups.version, groups.parents))
    if found[0].health is Health.FAILED:
        # Perhaps it is only the limits that it does not start with.
        without = _tried(container, limits, Trial(rootfs, ranges, groups.version, ()))
        found = without if without[0].health is not Health.FAILED else found
    return found


def _tried(container: str, limits: str, trial: Trial) -> list[Probe]:
    with trial:
        if trial.refused:
            seen, fix = _refused(trial)
            return [_failed(container, seen, fix), _failed(limits, "not tried: no container", fix)]
        identity, bitten = trial.identity(), trial.bitten()
    return [_started(container, identity, trial), _limited(limits, bitten)]


def _refused(trial: Trial) -> tuple[str, str]:
    seen = f"a container from {trial.rootfs} does not start: {trial.refused}"
    if "mount attributes" not in trial.refused:
        return f"{seen}; {_CHECK}", _FIX
    points = [
        mount for mount in read_mountinfo() if f"{trial.rootfs}/".startswith(f"{mount.point.rstrip('/')}/")
    ]
    kind = max(points, key=lambda mount: len(mount.point)).filesystem
    where = os.path.dirname(os.path.dirname(trial.rootfs))
    return f"{seen}; {kind} cannot map ids: mount an ext4, xfs or btrfs at {where} and prepare again", ""


def _started(identifier: str, identity: str, trial: Trial) -> Probe:
    ranges = trial.ids
    if identity != f"0 {ranges[0]}":
        seen = (
            f"its root is told as {identity or 'nothing'}, not as 0 mapped to {ranges[0]}; please report this"
        )
        return _failed(identifier, seen, f"{_DOCTOR} --json")
    if trial.left_behind:
        return _warning(
            identifier, f"it ran, but {', '.join(trial.left_behind)} stayed behind", trial.removal
        )
    return _ok(
        identifier, f"started, its root being uid {ranges[0]} here; stopped, and nothing stayed behind"
    )


def _limited(identifier: str, bitten: Sequence[str]) -> Probe:
    missing = [name for name in ("memory", "pids") if name not in bitten]
    if not missing:
        return _ok(identifier, f"{' and '.join(bitten)} are held by control groups")
    seen = (
        f"no limit of {' or '.join(missing)} holds inside;"
        " boot with cgroup_enable=memory, or mount the control groups missing"
    )
    return _warning(identifier, seen, fix="")


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
    if "masquerade" not in said(["nft", "list", "table", "inet", TABLE]):
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


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return "0"
