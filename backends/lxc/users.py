"""Containers of a caller who is not root: the user namespace that they are made in (reads the host)."""

from __future__ import annotations

import os

from backends.errors import BackendUnavailable, Problem
from backends.guest_etc import INSIDE_ID
from backends.inside.protocol import ContainerIds, Failed, Step, UserNamespace
from backends.linux.subordinate_ids import caller_names, ranges_of

__all__ = ["GRANTED_IDS", "namespace_problem", "own_namespace"]

GRANTED_IDS = 1
"""The container's root; whoever else is in it is the caller, or nobody."""

_FOLDERS = ("/usr/bin", "/usr/local/bin", "/bin")
_RANGE = "100000-165535"
_DOCTOR = "mxc-ops doctor --backend lxc"
_ROOTLESS = "mxc-ops prep host --backend lxc --feature rootless --yes"


def own_namespace() -> UserNamespace:
    """The container's root is the first id that the host grants the caller; the workload is the caller.

    Raises `BackendUnavailable` without newuidmap and newgidmap, or where nothing is granted.
    """
    mappers = _find("newuidmap"), _find("newgidmap")
    names = caller_names()
    granted = ranges_of(names, GRANTED_IDS)
    if granted is None:
        message = f"/etc/subuid and /etc/subgid grant {names[0]} no ids, which containers without root take"
        fix = f"usermod --add-subuids {_RANGE} --add-subgids {_RANGE} {names[0]}"
        raise BackendUnavailable(
            Problem("no_subordinate_ids", "", message, expected="ids that nobody else has", fix=fix)
        )
    ids = ContainerIds(0, *granted), ContainerIds(INSIDE_ID, os.geteuid(), os.getegid())
    return UserNamespace(ids, mappers)


def _find(name: str) -> str:
    found = next((path for folder in _FOLDERS if os.access(path := f"{folder}/{name}", os.X_OK)), None)
    if found is None:
        message = f"{name} is not installed, which containers without root take"
        raise BackendUnavailable(Problem("no_newuidmap", name, message, fix=_ROOTLESS))
    return found


def namespace_problem(failed: Failed, said: str) -> Problem:
    """Why a caller who is not root has no user namespace for containers.

    Parameters
    ----------
    said: what newuidmap and newgidmap complained about.
    """
    why = os.strerror(failed.errno)
    if failed.step is not Step.USERS:
        message = f"a user namespace cannot be used ({failed.step.name.lower()}): {why}"
        return Problem("setup_users", "", message, fix=_DOCTOR)
    if failed.index == 0:
        message = f"users may make no user namespaces here: {why}"
        return Problem("setup_users", "", message, fix=_ROOTLESS)
    message = f"ids that /etc/subuid and /etc/subgid grant cannot be mapped: {said or why}"
    return Problem("setup_users", "", message, fix=_DOCTOR)
