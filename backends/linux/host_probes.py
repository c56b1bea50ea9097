"""What sandboxes of every kind take from a Linux host, tried out: limits that bite, ids that are nobody's."""

from __future__ import annotations

import os
from pathlib import Path

from backends.linux import cgroups
from backends.linux.id_ranges import ID_FILES, overlaps
from backends.linux.limit_probe import exceed_memory, exceed_pids, has_bitten
from backends.linux.uid_range import HOST_FILE, configured_range
from backends.needs import Health, Probe

__all__ = ["probe_limits", "probe_range"]

_WHY_LIMITS = "a limit that nothing holds is refused by name"
_WHY_RANGE = "started by root, each sandbox gets a host uid of its own"


def probe_limits(identifier: str, as_root: str) -> Probe:
    """Whether what takes too much is stopped.

    Parameters
    ----------
    as_root: the command that tells root the same.
    """
    facts = cgroups.observe_cgroups()
    held = [name for name in cgroups.CONTROLLERS if name in facts.parents]
    missing = [name for name in cgroups.CONTROLLERS if name not in facts.parents]
    seen = f"{', '.join(held)} by cgroup {facts.version}" if held else "no control group is ours to use"
    toothless = _toothless(facts)
    if toothless:
        seen += f"; {toothless}; boot with cgroup_enable=memory swapaccount=1, and without cgroup_disable="
        return Probe(identifier, Health.FAILED, seen, _WHY_LIMITS, privilege="root")
    seen += "; what took too much was stopped"
    if not missing:
        return Probe(identifier, Health.OK, seen, _WHY_LIMITS)
    without = {"memory": "memory per process only", "pids": "pids by RLIMIT_NPROC", "cpu": "no share of cpus"}
    seen += "; " + ", ".join(without[name] for name in missing)
    if os.geteuid() == 0:
        seen += "; nobody has handed the controllers down to this host"
        return Probe(identifier, Health.WARNING, seen, _WHY_LIMITS, privilege="whoever starts it")
    seen += "; there is more for root, and under: systemd-run --user --scope"
    return Probe(identifier, Health.WARNING, seen, _WHY_LIMITS, as_root, "root")


def _toothless(facts: cgroups.CgroupFacts) -> str:
    """Which limits do not bite when more than allowed is taken; "" when all do."""
    tries = {"memory": exceed_memory}
    if "pids" in facts.parents or os.geteuid() != 0:  # RLIMIT_NPROC does not bind root, as which nothing runs
        tries["pids"] = exceed_pids
    outcomes = {name: exceed(facts) for name, exceed in tries.items()}
    broken = [f"{name}: {outcome.why}" for name, outcome in outcomes.items() if not has_bitten(outcome)]
    return f"more than allowed was taken of {', '.join(broken)}" if broken else ""


def probe_range(identifier: str, fix: str) -> Probe:
    """Whether root has a range of uids for sandboxes that nobody else has.

    Parameters
    ----------
    fix: the command that records one.
    """
    uids = configured_range()
    if uids is None:
        return Probe(identifier, Health.FAILED, f"{HOST_FILE} records no range", _WHY_RANGE, fix, "root")
    texts = {path: Path(path).read_text() for path in ID_FILES if Path(path).exists()}
    taken = overlaps(texts, uids.first, uids.count)
    if taken:
        seen = "; ".join([*taken, f"write a free range to {HOST_FILE}"])
        return Probe(identifier, Health.FAILED, seen, _WHY_RANGE, privilege="root")
    seen = f"uids {uids.first} to {uids.first + uids.count - 1}, nobody else's"
    return Probe(identifier, Health.OK, seen, _WHY_RANGE)
