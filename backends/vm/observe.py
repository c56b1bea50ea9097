"""Facts and open descriptors for one request: the last look at the host before planning."""

from __future__ import annotations

import os

from backends.base import Observed, SandboxRequest
from backends.bubblewrap.facts import check_helper, find_helper
from backends.errors import BackendUnavailable, Problem
from backends.inside.store import LAUNCHER, find_program, source_key
from backends.linux import seccomp
from backends.linux.cgroups import observe_cgroups
from backends.linux.objects import calling_user, observe_paths
from backends.linux.uid_range import configured_range
from backends.network.for_plans import observe_for
from backends.qemu.choice import FIX, choose_accelerator, choose_kind, observe_qemu
from backends.qemu.confinement import observe_places
from backends.qemu.host_values import observe_host_values
from backends.virtual_machine import VirtualMachine
from backends.vm.facts import VmFacts

__all__ = ["observe"]


def observe(request: SandboxRequest) -> Observed:
    """Read the host. The handles hold one descriptor for each object of the policy.

    Raises `BackendUnavailable` for what prep would install, and when nothing here carries a guest.
    """
    _check_machine(os.uname().machine)
    wanted = request.vm or VirtualMachine()
    qemu = observe_qemu()
    helper = find_helper()
    check_helper(helper)
    launcher = find_program(LAUNCHER)
    if launcher is None:
        message = "the launcher that QEMU is confined by is not built"
        raise BackendUnavailable(Problem("launcher_missing", "", message, fix=FIX))
    root = os.geteuid() == 0
    facts = VmFacts(
        qemu=qemu,
        host=observe_host_values(),
        accelerator=choose_accelerator(qemu, wanted.accelerator, _pointer(request, "accelerator", "accel")),
        kind=choose_kind(qemu, wanted.machine, _pointer(request, "machine", "machine")),
        helper=helper,
        launcher=launcher,
        launcher_key=source_key(LAUNCHER),
        places=observe_places(),
        caller=(os.geteuid(), os.getegid()),
        groups=() if root else tuple(sorted({os.getegid(), *os.getgroups()})),
        uid_range=configured_range() if root else None,
        cgroups=observe_cgroups(),
        seccomp={name: seccomp.profile_hash(name) for name in seccomp.PROFILES if name == request.seccomp}
        or dict.fromkeys(seccomp.PROFILES, ""),
        network=observe_for(request.network, root=root),
    )
    paths, handles = observe_paths(request.grants, calling_user(), visible_trees=())
    return Observed(facts, paths, handles)


def _pointer(request: SandboxRequest, field: str, name: str) -> str:
    return request.pointers.get(field, f"/mxcOps/vm/{name}")


def _check_machine(machine: str) -> None:
    if machine != "x86_64":
        raise BackendUnavailable(
            Problem(
                "machine_not_supported",
                machine,
                "images and the seccomp filter inside them are made for x86_64 alone",
                expected="an x86_64 host",
            )
        )
