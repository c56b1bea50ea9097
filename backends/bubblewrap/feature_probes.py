"""What sandboxes with a feature need, tried out on this host: users' own ids, a compiler."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from backends.bubblewrap.needs import SUBORDINATE_COUNT
from backends.errors import BackendUnavailable, PrepFailed
from backends.linux.subordinate_ids import caller_names, holders, ranges_of
from backends.needs import Health, Probe

__all__ = ["compiler", "rootless"]

_WHY = {
    "bubblewrap.rootless": "ids of their own are given to the sandboxes of users by newuidmap and newgidmap",
    "bubblewrap.compiler": "the launcher is compiled on the host itself, again after each update of ours",
}


def rootless() -> Probe:
    """Whether users can give ids of their own to their sandboxes: the caller, or for root anybody."""
    identifier, fix = "bubblewrap.rootless", _prepare("rootless")
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    missing = [name for name in ("newuidmap", "newgidmap") if shutil.which(name, path=path) is None]
    if missing:
        seen = f"no {' and no '.join(missing)}"
        return Probe(identifier, Health.FAILED, seen, _WHY[identifier], fix, "root")
    if os.geteuid() != 0:
        names = caller_names()
        if ranges_of(names, SUBORDINATE_COUNT) is None:
            seen = f"{names[0]} has no {SUBORDINATE_COUNT} ids in /etc/subuid and /etc/subgid"
            return Probe(identifier, Health.FAILED, seen, _WHY[identifier], fix, "root")
        return _ok(identifier, f"newuidmap and newgidmap are here, and {names[0]} has ids of their own")
    users = [name for name in holders(SUBORDINATE_COUNT) if name not in caller_names()]
    if not users:
        seen = (
            "newuidmap and newgidmap are here, but no user has ids: name some by mxc_users in the inventory"
        )
        return Probe(identifier, Health.WARNING, seen, _WHY[identifier], "", "root")
    return _ok(identifier, f"newuidmap and newgidmap are here; ids of their own have {', '.join(users)}")


def compiler() -> Probe:
    """Whether the launcher can be compiled here, found out by compiling it; what comes out must run."""
    from backends.inside.build import build_program
    from backends.inside.store import LAUNCHER

    identifier = "bubblewrap.compiler"
    try:
        with tempfile.TemporaryDirectory(prefix="mxc-ops-trial-") as folder:
            build_program(LAUNCHER, Path(folder))
    except BackendUnavailable as error:
        seen = error.problems[0].message
        return Probe(identifier, Health.FAILED, seen, _WHY[identifier], _prepare("compiler"), "root")
    except PrepFailed as error:
        # A directory for temporary files may be without programs, while the launcher's own has them.
        seen = f"not tried: {error.problems[0].message}"
        return Probe(identifier, Health.WARNING, seen, _WHY[identifier], _prepare("compiler"), "root")
    return _ok(identifier, "the launcher was compiled from the current sources")


def _prepare(feature: str) -> str:
    return f"mxc-ops prep host --backend bubblewrap --feature {feature} --yes"


def _ok(identifier: str, seen: str) -> Probe:
    return Probe(identifier, Health.OK, seen, _WHY[identifier])
