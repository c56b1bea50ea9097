"""Facts and open descriptors for one request: the last look at the host before planning."""

from __future__ import annotations

import os

from backends.base import Observed, SandboxRequest
from backends.bubblewrap.facts import (
    FIX,
    BubblewrapFacts,
    check_helper,
    find_helper,
    observe_baseline,
)
from backends.errors import BackendUnavailable, Problem
from backends.inside.store import LAUNCHER, find_program, source_key
from backends.linux import landlock, seccomp
from backends.linux.cgroups import NO_CGROUPS, observe_cgroups
from backends.linux.objects import calling_user, observe_paths
from backends.linux.uid_range import configured_range
from backends.network.for_plans import observe_for


def observe(request: SandboxRequest) -> Observed:
    """Read the host. The handles hold one descriptor for each object of the policy.

    Raises `BackendUnavailable` for what prep would install.
    """
    _check_machine(os.uname().machine)
    helper = find_helper()
    check_helper(helper)
    launcher = find_program(LAUNCHER)
    if launcher is None:
        raise BackendUnavailable(
            Problem("launcher_missing", "", "the launcher that runs inside sandboxes is not built", fix=FIX)
        )
    root = os.geteuid() == 0
    grouped = request.limits.memory_mib or request.limits.pids or request.limits.cpus
    facts = BubblewrapFacts(
        helper=helper,
        launcher=launcher,
        launcher_key=source_key(LAUNCHER),
        landlock_abi=landlock.abi(),
        caller=(os.geteuid(), os.getegid()),
        baseline=observe_baseline(),
        uid_range=configured_range() if root else None,
        cgroups=observe_cgroups() if grouped else NO_CGROUPS,
        seccomp={request.seccomp: seccomp.profile_hash(request.seccomp)}
        if request.seccomp in seccomp.PROFILES
        else dict.fromkeys(seccomp.PROFILES, ""),
        network=observe_for(request.network, root=root),
    )
    paths, handles = observe_paths(request.grants, calling_user(), visible_trees=facts.baseline_trees)
    return Observed(facts, paths, handles)


def _check_machine(machine: str) -> None:
    if machine != "x86_64":
        raise BackendUnavailable(
            Problem(
                "machine_not_supported",
                machine,
                "the seccomp filter that every sandbox gets is made for x86_64 alone",
                expected="an x86_64 host",
            )
        )
