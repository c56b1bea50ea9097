"""What sandboxes with a feature need, tried out on this host: a network, users' own ids, a compiler."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from backends.bubblewrap.needs import SUBORDINATE_COUNT
from backends.errors import BackendUnavailable, PrepFailed
from backends.linux.nft_probe import find_program, load_rules, start_pasta
from backends.linux.subordinate_ids import caller_names, holders, ranges_of
from backends.needs import Health, Probe, fault_of

__all__ = ["compiler", "network", "rootless"]

_UNPRIVILEGED_UID = 61234
_WHY = {
    "bubblewrap.network": "a sandbox with a network of its own is made with them",
    "bubblewrap.rules.caller": "nft holds the rules of a sandbox's own network",
    "bubblewrap.rules.unprivileged": "nft holds them in a user's namespaces too",
    "bubblewrap.pasta": "it connects the sandbox's own network of a user who is not root",
    "bubblewrap.rootless": "ids of their own are given to the sandboxes of users by newuidmap and newgidmap",
    "bubblewrap.compiler": "the launcher is compiled on the host itself, again after each update of ours",
}


def network(
    users: Sequence[tuple[str, int]], features: Collection[str], *, for_launcher_only: bool
) -> list[Probe]:
    """Load rules as each of the users, and bring a user's network up.

    A host without the programs was not prepared for sandboxes with a network: that is no fault, unless the
    feature was asked for.

    Parameters
    ----------
    users: who, as the probes call them, and their uids.
    for_launcher_only: AppArmor permits a user's namespaces to our launcher, so bwrap cannot try it.
    """
    nft, pasta, bwrap = (find_program(name) for name in ("nft", "pasta", "bwrap"))
    missing = [name for name, path in (("nft", nft), ("pasta", pasta)) if path is None]
    if nft is None or pasta is None or bwrap is None:
        return [_unprepared(f"no {' and no '.join(missing or ['bwrap'])}", features)]
    probes: list[Probe] = []
    for name, uid in users:
        identifier = f"bubblewrap.rules.{name}"
        outcome = load_rules(nft, bwrap, uid)
        if outcome.status == 0:
            probes.append(_ok(identifier, "filter, sets, connection tracking and NAT load in a namespace"))
        elif for_launcher_only and uid:
            probes.append(_ok(identifier, "not tried: AppArmor permits namespaces to our launcher only"))
        else:
            probes.append(_fault(identifier, f"uid {uid} cannot load rules: {outcome.why}", features))
    outcome = start_pasta(pasta, os.geteuid() or _UNPRIVILEGED_UID)
    if outcome.status == 0:
        return [*probes, _ok("bubblewrap.pasta", "a network came up in a namespace of a user's")]
    return [*probes, _fault("bubblewrap.pasta", f"no network came up for a user: {outcome.why}", features)]


def _unprepared(missing: str, features: Collection[str]) -> Probe:
    identifier = "bubblewrap.network"
    if "network" in features:
        return _fault(identifier, missing, features)
    fix = _prepare("network")
    return Probe(identifier, Health.OK, f"not prepared for: {missing}", _WHY[identifier], fix, "root")


def _fault(identifier: str, seen: str, features: Collection[str]) -> Probe:
    health = fault_of("network", features)
    return Probe(identifier, health, seen, _WHY[identifier], _prepare("network"), "root")


def rootless() -> Probe:
    """Whether users can give ids of their own to their sandboxes: the caller, or for root anybody."""
    identifier, fix = "bubblewrap.rootless", _prepare("rootless")
    missing = [name for name in ("newuidmap", "newgidmap") if find_program(name) is None]
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
