"""The pools of this process, by what their clones are made from (effectful, asyncio)."""

from __future__ import annotations

from backends.qemu.clone import Clone, Link, restore
from backends.qemu.confinement import Confinement
from backends.qemu.open_templates import shared_template
from backends.qemu.per_loop import PerLoop
from backends.qemu.pool import ClonePool
from backends.qemu.template_plan import GRANTS, TemplatePlan
from backends.qemu.timings import Timings

__all__ = ["close_pools", "keep_parked", "take_clone"]

_MOST_COPIED_BYTES = 64 << 20
"""A parked clone has its disk already, in memory: what goes there is copied."""

_pools = PerLoop(dict[tuple[str, str], ClonePool])


async def keep_parked(plan: TemplatePlan, confinement: Confinement, size: int) -> ClonePool:
    """From now on keep `size` clones parked for runs that need just these; 0 ends them.

    Returns when they are ready. Raises what keeps them from being made; none is kept parked then.
    """
    name = _name(plan, confinement)
    pool = _pools.get().get(name)
    if pool is not None and pool.size != size:
        del _pools.get()[name]
        await pool.close()
        pool = None
    if pool is None:
        pool = ClonePool(plan, confinement, size)
        if size:
            _pools.get()[name] = pool
    try:
        await pool.fill()
    except BaseException:  # nobody has been told of it, so nobody could close it
        if _pools.get().get(name) is pool:
            del _pools.get()[name]
        await pool.close()
        raise
    return pool


async def take_clone(
    plan: TemplatePlan,
    confinement: Confinement,
    timings: Timings,
    *,
    grants: int | None,
    used_bytes: int,
    link: Link | None = None,
) -> Clone:
    """A clone for one run: from its pool, if one is kept, else restored now.

    Parameters
    ----------
    grants: the file for its disk of read-only grants, if there are any; the first `used_bytes` matter.
    link: where its network card leads; None: nowhere, as with all that are parked.
    """
    pool = _pools.get().get(_name(plan, confinement))
    if pool is not None and link is None and used_bytes <= _MOST_COPIED_BYTES:
        clone = await pool.acquire(timings)
        if grants is not None:
            try:
                clone.fill(GRANTS.name, grants)
            except BaseException:  # it is nobody's by now, and the pool takes none back
                await clone.end()
                raise
        return clone
    template = await shared_template(plan, confinement)
    timings.mark("templateOpen")
    disks = {} if grants is None else {GRANTS.name: grants}
    return await restore(plan, template, confinement, timings, disks=disks, link=link)


async def close_pools() -> None:
    """End every parked clone of this process."""
    while _pools.get():
        await _pools.get().popitem()[1].close()


def _name(plan: TemplatePlan, confinement: Confinement) -> tuple[str, str]:
    return plan.key, repr(confinement)
