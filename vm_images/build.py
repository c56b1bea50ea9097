"""Build an image: find out what it will be made of and, unless it is there already, make and publish it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backends.errors import BackendUnavailable, PrepFailed, Problem
from backends.frozen import frozen
from backends.guest_etc import ETC_FILES
from backends.inside.build import build_program
from backends.inside.store import AGENT, source_key
from backends.virtual_machine import System
from vm_images.apt import MOVED, Apt, moved
from vm_images.initrd import cpio, initrd_entries
from vm_images.interpreters import INTERPRETERS
from vm_images.kernel import unpack_kernel
from vm_images.plan import Plan, digest
from vm_images.python_packages import install_requirements
from vm_images.recipe import Format, OwnFile, Recipe
from vm_images.rootfs import assemble, bootstrap, pack, remove_tree
from vm_images.store import IMPORTED, MANIFEST, lock_folder, own_store, read_image, stores
from vm_images.store_changes import publish, set_name, sweep, workplace, writing
from vm_images.tools import run_tool

__all__ = ["Built", "Report", "build_image"]

Report = Callable[[str], None]
"""Told what is being done, in a few words, whenever that changes."""
_BUSYBOX = "busybox-static"
_ANSWER_S = 30


@frozen
class Built:
    """`fresh`: it was made now; else it was there, in the store that is told."""

    name: str
    key: str
    store: str
    fresh: bool


def build_image(recipe: Recipe, report: Report, *, store: str = "") -> Built:
    """Have an image of this recipe, of the packages as they are now, in a store under the recipe's name.

    Parameters
    ----------
    report: see `Report`.
    store: by default the system's for root, else the user's own; a user is content with the system's image.

    Raises `BackendUnavailable` where the host lacks something, `PrepFailed` when building fails.
    """
    if os.uname().machine != "x86_64":
        message = f"images are for x86_64, and this host is {os.uname().machine}"
        raise BackendUnavailable(Problem("machine", "", message, fix="build them on a host of that kind"))
    target = Path(store or own_store())
    sweep(target)
    with workplace(target) as scratch:
        report("compiling the agent")
        agent = recipe.agent or build_program(AGENT, scratch / "agent").read_bytes()
        try:
            return _build(recipe, agent, target, scratch / "first", report, alone=bool(store))
        except PrepFailed as error:
            if error.problems[0].code != MOVED:
                raise
            report("the archive changed meanwhile: once more")
            return _build(recipe, agent, target, scratch / "second", report, alone=bool(store))


def _build(
    recipe: Recipe, agent: bytes, target: Path, scratch: Path, report: Report, *, alone: bool
) -> Built:
    scratch.mkdir()
    apt = Apt(scratch)
    report("asking apt for the versions of today")
    apt.update()
    plan = _plan(recipe, apt)
    if found := _there(plan.key, target, alone=alone):
        if found == str(target):
            with lock_folder(f"{found}/{plan.key}", recipe.name):
                set_name(target, recipe.name, plan.key)
        return Built(recipe.name, plan.key, found, fresh=False)
    with workplace(target, plan.key, waiting=lambda: report("somebody builds it already: waiting")) as place:
        fresh = not _there(plan.key, target, alone=True)
        if fresh:
            with writing(target):
                _make(plan, apt, agent, place, report)
            publish(place, target, plan.key)
        set_name(target, recipe.name, plan.key)  # still locked: without a name it might be collected
    return Built(recipe.name, plan.key, str(target), fresh=fresh)


def _plan(recipe: Recipe, apt: Apt) -> Plan:
    waiting = INTERPRETERS[recipe.zygote] if recipe.zygote else None
    return Plan(
        recipe=recipe,
        machine=os.uname().machine,
        kernel=apt.kernel(recipe.kernel),
        packages=() if recipe.format is Format.NONE else apt.resolve(recipe.packages),
        busybox=apt.candidate(_BUSYBOX) if recipe.busybox else None,
        agent=digest(recipe.agent) if recipe.agent else source_key(AGENT),
        zygote=waiting.read_script() if waiting else b"",
        addon=waiting.addon_key if waiting else "",
        preloaded=waiting.read_preloaded() if waiting else b"",
        system=System() if recipe.format is Format.NONE else apt.system,
    )


def _there(key: str, target: Path, *, alone: bool) -> str:
    """The store that has this image whole, built and not only imported; "" when none has.

    Parameters
    ----------
    alone: whether only `target` counts.
    """
    places = ((str(target), os.geteuid()),) if alone else stores()
    for place, owner in places:
        try:
            read_image(place, key, owner)
        except BackendUnavailable:
            continue
        if not Path(place, key, IMPORTED).exists():
            return place
    return ""


def _make(plan: Plan, apt: Apt, agent: bytes, place: Path, report: Report) -> None:
    """Put the image's files into `place`, and nothing else."""
    work = place / "work"
    work.mkdir()
    report(f"unpacking the kernel {plan.kernel.version}")
    package = apt.fetch(plan.kernel, work / "kernel-package")
    (work / "kernel").mkdir()
    kernel = unpack_kernel(package, work / "kernel", plan.recipe.all_modules)
    (place / "vmlinux").write_bytes(kernel.vmlinux)
    busybox, applets = _busybox(plan, apt, work) if plan.busybox else (b"", ())
    alone = plan.recipe.format is Format.NONE
    entries = initrd_entries(
        agent=agent,
        modules=kernel.modules,
        format=plan.recipe.format,
        zygote=plan.recipe.zygote,
        busybox=busybox,
        applets=applets,
        files=plan.files if alone else (),
        etc=ETC_FILES if alone else None,
    )
    (place / "initrd").write_bytes(cpio(entries))
    remove_tree(work / "kernel")
    if not alone:
        _make_rootfs(plan, apt, work, place / plan.rootfs, report)
    remove_tree(work)
    parts = {part.name: _described(part) for part in sorted(place.iterdir())}
    (place / MANIFEST).write_bytes(plan.manifest(parts))


def _busybox(plan: Plan, apt: Apt, work: Path) -> tuple[bytes, tuple[str, ...]]:
    assert plan.busybox is not None
    package = apt.fetch(plan.busybox, work / "busybox-package")
    run_tool(["dpkg-deb", "-x", package, work / "busybox"], deadline_s=_ANSWER_S)
    program = next(path for path in (work / "busybox").rglob("busybox") if path.parent.name == "bin")
    applets = run_tool([program, "--list"], deadline_s=_ANSWER_S).decode().split()
    return program.read_bytes(), tuple(sorted(applets))


def _make_rootfs(plan: Plan, apt: Apt, work: Path, target: Path, report: Report) -> None:
    extra = None
    if plan.recipe.requirements:
        report("fetching Python packages")
        extra = install_requirements(plan, work / "python")
    report(f"installing {len(plan.packages)} Debian packages")
    archive, scratch = work / "system.tar", work / "bootstrap"
    scratch.mkdir()
    names = plan.recipe.packages
    installed = bootstrap(apt, names, archive, scratch, python=plan.python, extra=extra)
    if installed != plan.packages:
        raise moved(plan.packages, installed)
    report(f"packing the root file system as {plan.recipe.format.value}")
    assemble(archive, work / "root", (*plan.files, *_addon(plan, work)))
    pack(work / "root", plan.recipe.format, target, plan.key)


def _addon(plan: Plan, work: Path) -> tuple[OwnFile, ...]:
    """What is compiled for the interpreter that waits."""
    waiting = INTERPRETERS[plan.recipe.zygote] if plan.recipe.zygote else None
    if waiting is None or waiting.addon is None:
        return ()
    return (OwnFile(waiting.addon_path, build_program(waiting.addon, work / "addon").read_bytes()),)


def _described(part: Path) -> dict[str, Any]:
    with part.open("rb") as file:
        return {"size": part.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
