"""Facts for one request by the native driver: the last look at the host before planning."""

from __future__ import annotations

import os

from backends.base import SandboxRequest
from backends.bubblewrap.facts import BaselineEntry, Helper, check_helper, find_helper
from backends.errors import BackendUnavailable, MxcError
from backends.frozen import replace
from backends.hyperlight.native.device import DEVICES, observe_device
from backends.hyperlight.native.facts import LIBRARIES, NativeFacts, Packages
from backends.hyperlight.native.packages import find_packages
from backends.hyperlight.native.plan import WORKER_PROFILE
from backends.hyperlight.native.trial import native_verdict
from backends.inside.store import LAUNCHER, find_program, source_key
from backends.linux import landlock, seccomp
from backends.linux.cgroups import observe_cgroups
from backends.linux.uid_range import configured_range

__all__ = ["facts_of", "observe_native", "tried"]


def observe_native(request: SandboxRequest) -> NativeFacts:
    """Whether the packages run sandboxes here, and why not; and what a plan is made from.

    The first call after a boot of the host runs a sandbox: 0.2 s where one is refused, and at most 30.
    What is missing raises nothing: it is `NativeFacts.why`.
    """
    packages, why = find_packages()
    return tried(facts_of(packages, why, request.seccomp))


def tried(facts: NativeFacts) -> NativeFacts:
    """The same, once a sandbox was seen to run, or not; where something is missing none is tried."""
    if facts.why:
        return facts
    try:
        return replace(facts, why=native_verdict(facts))
    except BackendUnavailable as error:
        return replace(facts, why=error.problems[0].message)


def facts_of(packages: Packages | None, why: str = "", profile: str = "default") -> NativeFacts:
    """All but whether a sandbox runs.

    Parameters
    ----------
    packages: None: there are none, and `why`.
    profile: the seccomp profile that the request names.
    """
    reasons = [why] if why else []
    machine = os.uname().machine
    if machine != "x86_64":
        reasons.append(f"the packages are built for x86_64 only, and this is {machine}")
    device = observe_device()
    if device is None:
        reasons.append(f"neither {DEVICES[1]} nor {DEVICES[0]} is here")
    helper, missing = _helper()
    launcher = find_program(LAUNCHER)
    reasons += [missing] if missing else []
    reasons += ["the launcher that confines sandboxes is not built"] if launcher is None else []
    root = os.geteuid() == 0
    named = (WORKER_PROFILE, profile) if profile in seccomp.PROFILES else seccomp.PROFILES
    return NativeFacts(
        why="; ".join(reasons),
        packages=packages,
        device=device,
        helper=helper,
        launcher=launcher or "",
        launcher_key=source_key(LAUNCHER),
        landlock_abi=landlock.abi(),
        libraries=_libraries(),
        caller=(os.geteuid(), os.getegid()),
        uid_range=configured_range() if root else None,
        cgroups=observe_cgroups(),
        seccomp={name: seccomp.profile_hash(name) for name in named},
    )


def _helper() -> tuple[Helper | None, str]:
    try:
        helper = find_helper()
        check_helper(helper)
    except MxcError as error:
        return None, error.problems[0].message
    return helper, ""


def _libraries() -> tuple[BaselineEntry, ...]:
    """Those that this host has, links as links."""
    found: list[BaselineEntry] = []
    for path in LIBRARIES:
        try:
            found.append(BaselineEntry(path, os.readlink(path)))
        except FileNotFoundError:
            continue
        except OSError:  # EINVAL: not a link
            found.append(BaselineEntry(path))
    return tuple(found)
