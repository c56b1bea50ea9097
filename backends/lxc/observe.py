"""Facts and open descriptors for one container: the last look at the host before planning."""

from __future__ import annotations

import os

from backends.base import Observed, SandboxRequest
from backends.errors import BackendUnavailable, Problem
from backends.inside.store import LAUNCHER, find_program, source_key
from backends.linux import landlock, seccomp
from backends.linux.boot_cache import cached
from backends.linux.cgroups import NO_CGROUPS, observe_cgroups
from backends.linux.objects import calling_user, observe_paths
from backends.linux.uid_range import configured_range
from backends.lxc import apparmor
from backends.lxc.facts import FIX, LxcFacts
from backends.lxc.users import own_namespace
from backends.network.for_plans import observe_for

__all__ = ["find_starter", "observe", "version_of"]

_STARTERS = ("/usr/bin/lxc-start", "/usr/local/bin/lxc-start", "/bin/lxc-start")
_OLDEST = (5, 0)


def observe(request: SandboxRequest) -> Observed:
    """Read the host. The handles hold one descriptor for each object of the policy.

    Raises `BackendUnavailable` for what prep would install.
    """
    starter = find_starter()
    launcher = find_program(LAUNCHER)
    if launcher is None:
        message = "the launcher that runs inside containers is not built"
        raise BackendUnavailable(Problem("launcher_missing", "", message, fix=FIX))
    switch = apparmor.switch()
    grouped = request.limits.memory_mib or request.limits.pids or request.limits.cpus
    facts = LxcFacts(
        starter=starter,
        version=version_of(starter),
        launcher=launcher,
        launcher_key=source_key(LAUNCHER),
        landlock_abi=landlock.abi(),
        apparmor=apparmor.profile_for(switch, apparmor.loaded_profiles()),
        apparmor_on=apparmor.is_on(switch),
        caller=(os.geteuid(), os.getegid()),
        uid_range=configured_range() if os.geteuid() == 0 else None,
        users=own_namespace() if os.geteuid() != 0 else None,
        cgroups=observe_cgroups() if grouped else NO_CGROUPS,
        seccomp={request.seccomp: seccomp.profile_hash(request.seccomp)}
        if request.seccomp in seccomp.PROFILES
        else dict.fromkeys(seccomp.PROFILES, ""),
        network=observe_for(request.network, root=os.geteuid() == 0),
    )
    paths, handles = observe_paths(request.grants, calling_user(), visible_trees=())
    return Observed(facts, paths, handles)


def find_starter() -> str:
    """The path of lxc-start. Raises `BackendUnavailable` where there is none."""
    starter = next((path for path in _STARTERS if os.access(path, os.X_OK)), None)
    if starter is None:
        raise BackendUnavailable(Problem("lxc_missing", "lxc-start", "LXC is not installed", fix=FIX))
    return starter


def version_of(starter: str) -> str:
    """What it says it is. Raises `BackendUnavailable` for one that is too old."""
    status = os.stat(starter)
    version = cached(f"lxc-{status.st_ino}-{status.st_mtime_ns}", lambda: _ask(starter))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST:
        raise BackendUnavailable(
            Problem(
                "lxc_too_old",
                starter,
                f"LXC {version or 'without a version'} cannot start containers by the keys that ours have",
                expected="LXC 5.0 or later",
                fix=FIX,
            )
        )
    return version


def _ask(starter: str) -> str:
    import subprocess

    done = subprocess.run([starter, "--version"], capture_output=True, check=False, timeout=5, env={})
    return done.stdout.decode("utf-8", "replace").strip()
