"""What bubblewrap needs, tried out on this host: each probe says what was seen, why it matters, the fix."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from backends.bubblewrap import feature_probes
from backends.bubblewrap.facts import FIX, Helper, check_helper, find_helper
from backends.bubblewrap.needs import APPARMOR_PROFILE
from backends.errors import MxcError
from backends.inside.store import LAUNCHER, find_program
from backends.launched.agent_program import probe_agent
from backends.linux import landlock
from backends.linux.host_probes import probe_limits, probe_range
from backends.linux.trial import attempt
from backends.needs import Health, Probe, fault_of
from backends.network.probe import network_probes

_DEADLINE_S = 10
_UNPRIVILEGED_UID = 61234
_AS_ROOT = "mxc-ops doctor --backend bubblewrap"
_LOADED_PROFILES = "/sys/kernel/security/apparmor/profiles"
_NAMESPACE_FLAGS = (
    *("--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL", "--die-with-parent"),
    *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", "/bin/true"),
)


def probe(features: Collection[str] = ()) -> list[Probe]:
    """Try everything that a sandbox stands on as the caller; when root, namespaces without its rights too.

    Whether whole sandboxes run is told by `mxc_ops.doctor`, which has the rest of the way at hand.

    Parameters
    ----------
    features: those that were asked for: without them this host is not ready.
    """
    probes = [_guard("bubblewrap.bwrap", _bwrap), _guard("bubblewrap.launcher", _launcher)]
    users = [("caller", os.geteuid())] + ([("unprivileged", _UNPRIVILEGED_UID)] if os.geteuid() == 0 else [])
    for name, uid in users:
        identifier = f"bubblewrap.namespaces.{name}"
        probes.append(_guard(identifier, lambda identifier, uid=uid: _namespaces(identifier, uid)))
    rest: tuple[tuple[str, Callable[[str], Probe]], ...] = (
        ("bubblewrap.seccomp", _seccomp),
        ("bubblewrap.landlock", lambda identifier: _landlock(identifier, features)),
        ("bubblewrap.limits", lambda identifier: probe_limits(identifier, _AS_ROOT)),
        ("bubblewrap.ids", _ids),
    )
    probes += [_guard(identifier, look) for identifier, look in rest]
    probes += network_probes("bubblewrap", features)
    probes.append(probe_agent("bubblewrap", features))
    optional = {"rootless": feature_probes.rootless, "compiler": feature_probes.compiler}
    return probes + [look() for feature, look in optional.items() if feature in features]


def _guard(identifier: str, look: Callable[[str], Probe]) -> Probe:
    """A probe that raises has failed, with the error's own words and fix."""
    try:
        return look(identifier)
    except MxcError as error:
        message = error.problems[0].message
        return Probe(identifier, Health.FAILED, message, _WHY[identifier], error.fix, "root")


_WHY = {
    "bubblewrap.bwrap": "it makes the namespaces and mounts of every sandbox",
    "bubblewrap.launcher": "it sets limits, Landlock and the last seccomp filter inside",
    "bubblewrap.namespaces.caller": "a sandbox is made of namespaces",
    "bubblewrap.namespaces.unprivileged": "sandboxes run without root's rights, also when root starts them",
    "bubblewrap.seccomp": "system calls outside the allow-list are refused by it",
    "bubblewrap.landlock": "a second, independent wall around the filesystem",
    "bubblewrap.limits": "a limit that nothing holds is refused by name",
    "bubblewrap.ids": "started by root, each sandbox gets a host uid of its own",
}


def _bwrap(identifier: str) -> Probe:
    helper = find_helper()
    check_helper(helper)
    return _ok(identifier, f"bwrap {helper.version} at {helper.path}, with every option that is needed")


def _launcher(identifier: str) -> Probe:
    launcher = find_program(LAUNCHER)
    if launcher is None:
        return Probe(
            identifier, Health.FAILED, "not built from these sources", _WHY[identifier], FIX, privilege="root"
        )
    return _ok(identifier, f"built from the current sources: {launcher}")


def _namespaces(identifier: str, uid: int) -> Probe:
    refused = _try_namespaces(find_helper(), uid)
    if not refused:
        return _ok(identifier, f"uid {uid} can make the namespaces of a sandbox")
    switches, profile = _read_switches(), _profile_state()
    if is_for_launcher_only(switches, profile):
        seen = f"AppArmor refuses bwrap by itself; {APPARMOR_PROFILE} permits it to our launcher"
        return _ok(identifier, f"{seen}, and whole sandboxes tell whether that works")
    cause, fix, privilege = explain_refusal(switches, in_chroot=_in_chroot(), profile=profile)
    seen = f"uid {uid} is refused namespaces: {refused}; {cause}"
    return Probe(identifier, Health.FAILED, seen, _WHY[identifier], fix, privilege)


def _try_namespaces(helper: Helper, uid: int) -> str:
    """What bubblewrap says against it; "" when it works."""
    outcome = attempt([helper.path, *_NAMESPACE_FLAGS], deadline_s=_DEADLINE_S, uid=uid)
    return "" if outcome.status == 0 else outcome.why


_SWITCHES = (
    "kernel.unprivileged_userns_clone",
    "user.max_user_namespaces",
    "kernel.apparmor_restrict_unprivileged_userns",
)


def _read_switches() -> dict[str, str]:
    found: dict[str, str] = {}
    for key in _SWITCHES:
        try:
            found[key] = Path("/proc/sys", *key.split(".")).read_text().strip()
        except OSError:
            continue
    return found


def _in_chroot() -> bool:
    """Whether our root directory is not the root of our mount namespace: no user namespaces then (EPERM)."""
    try:
        first = next(line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    except (OSError, StopIteration):
        return True  # without a mount of its own a chroot has an empty list
    return first[4] != "/"


def _profile_state() -> str:
    """Of our AppArmor profile: ``absent``, ``loaded`` (also when we may not look) or ``not loaded``."""
    if not Path(APPARMOR_PROFILE).exists():
        return "absent"
    try:
        loaded = Path(_LOADED_PROFILES).read_text()
    except OSError:
        return "loaded"
    name = APPARMOR_PROFILE.rpartition("/")[2]
    return "loaded" if any(line.split()[0] == name for line in loaded.splitlines()) else "not loaded"


def is_for_launcher_only(switches: dict[str, str], profile: str) -> bool:
    """Whether AppArmor, and nothing else, refuses namespaces to bwrap unless our launcher starts it.

    Parameters
    ----------
    switches: as for `explain_refusal`.
    profile: ``absent``, ``loaded`` or ``not loaded``.
    """
    others = ("kernel.unprivileged_userns_clone", "user.max_user_namespaces")
    restricted = switches.get("kernel.apparmor_restrict_unprivileged_userns") == "1"
    return restricted and profile == "loaded" and all(switches.get(key) != "0" for key in others)


def explain_refusal(
    switches: dict[str, str], *, in_chroot: bool, profile: str = "absent"
) -> tuple[str, str, str]:
    """Why user namespaces are refused: cause, fix, and who can mend it (user_namespaces(7)).

    The fix is "" where no command on this host mends it; the cause then says what does.

    Parameters
    ----------
    switches: sysctl → value, for those that this kernel has.
    profile: of AppArmor, for our launcher: ``absent``, ``loaded`` or ``not loaded``.
    """
    if switches.get("kernel.unprivileged_userns_clone") == "0":
        return "kernel.unprivileged_userns_clone is 0", FIX, "root"
    if switches.get("user.max_user_namespaces") == "0":
        return "user.max_user_namespaces is 0", FIX, "root"
    if switches.get("kernel.apparmor_restrict_unprivileged_userns") == "1":
        if profile == "not loaded":
            return f"{APPARMOR_PROFILE} is not loaded", f"apparmor_parser -r {APPARMOR_PROFILE}", "root"
        return "AppArmor restricts user namespaces and has no profile that permits bwrap", FIX, "root"
    if in_chroot:
        cause = "we are inside a chroot, where the kernel refuses them; use a container instead"
        return cause, "", "whoever made the chroot"
    return (
        "no switch of the kernel forbids it: a container's own seccomp filter or security module does;"
        " start that container with: --security-opt seccomp=unconfined"
        " --security-opt systempaths=unconfined --security-opt apparmor=unconfined",
        "",
        "whoever starts the container",
    )


def _seccomp(identifier: str) -> Probe:
    machine = os.uname().machine
    has_filters = "Seccomp_filters:" in Path("/proc/self/status").read_text()
    if machine == "x86_64" and has_filters:
        return _ok(identifier, "the kernel takes seccomp filters; filters for x86_64 are at hand")
    seen = f"this is {machine}" if has_filters else "the kernel has no seccomp filters"
    seen += "; x86_64 and a kernel ≥ 5.9 are needed"
    return Probe(identifier, Health.FAILED, seen, _WHY[identifier], privilege="whoever provides the host")


def _landlock(identifier: str, features: Collection[str]) -> Probe:
    abi = landlock.abi()
    if abi:
        return _ok(identifier, f"Landlock ABI {abi}")
    seen = (
        "the kernel has no Landlock; mounts alone hold the filesystem policy;"
        " a kernel ≥ 5.13 has it, booted with landlock in its lsm= list"
    )
    return Probe(identifier, fault_of("landlock", features), seen, _WHY[identifier], privilege="root")


def _ids(identifier: str) -> Probe:
    if os.geteuid() != 0:
        return _ok(identifier, f"not needed: sandboxes run as uid {os.geteuid()}, their caller")
    return probe_range(identifier, FIX)


def _ok(identifier: str, seen: str) -> Probe:
    return Probe(identifier, Health.OK, seen, _WHY[identifier])
