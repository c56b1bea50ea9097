"""Whether a containment can be used on this host, found out by its own probes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from backends.frozen import frozen
from backends.needs import Health
from backends.registry import CONTAINMENTS
from mxc_ops.fixes import for_this_host

if TYPE_CHECKING:
    from backends.needs import Probe


@frozen
class Availability:
    """`why` it is not usable, and how to `fix` that; `warnings` when it is, but not as it should be."""

    usable: bool
    why: str = ""
    fix: str = ""
    warnings: tuple[str, ...] = ()


def look(containment: str, platform: str) -> Availability:
    """Probe one containment of `backends.registry`, really running it where mxc-ops has a backend."""
    entry = CONTAINMENTS[containment]
    if entry.module is None:
        return Availability(usable=False, why=entry.why)
    if platform not in entry.platforms:
        return Availability(usable=False, why=f"exists on {', '.join(entry.platforms)} only")
    probes: list[Probe] = import_module(f"{entry.module}.probe").probe()
    failed = [probe for probe in probes if probe.health is Health.FAILED]
    if failed:
        return Availability(
            usable=False, why=failed[0].seen, fix=for_this_host(failed[0].fix, failed[0].privilege)
        )
    warnings = tuple(probe.seen for probe in probes if probe.health is Health.WARNING)
    return Availability(usable=True, warnings=warnings)
