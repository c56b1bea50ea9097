"""Templates that this process has open: one sealed memory serves every clone (effectful, asyncio)."""

from __future__ import annotations

import asyncio

from backends.qemu.confinement import Confinement
from backends.qemu.per_loop import PerLoop
from backends.qemu.template import open_template
from backends.qemu.template_plan import TemplatePlan
from backends.qemu.template_store import StoredTemplate, TemplateStore, default_store

__all__ = ["shared_template"]

_open = PerLoop(dict[tuple[str, str], asyncio.Task[StoredTemplate]])


async def shared_template(
    plan: TemplatePlan, confinement: Confinement, store: TemplateStore | None = None
) -> StoredTemplate:
    """The template of `plan`, opened (or made) once for this process and kept; not the caller's to close.

    Raises as `template.open_template`; a failure is not kept.
    """
    store = store or TemplateStore(default_store())
    name = (store.folder, plan.key)
    kept = _open.get()
    task = kept.get(name)
    if task is None or _has_failed(task):  # in the absence of who had asked for it
        task = kept[name] = asyncio.ensure_future(open_template(plan, confinement, store))
    try:
        return await asyncio.shield(task)
    except BaseException:
        if _has_failed(task) and kept.get(name) is task:
            del kept[name]
        raise


def _has_failed(task: asyncio.Task[StoredTemplate]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
