"""Stores of the tests' own, with images in them that nothing boots."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from backends.virtual_machine import System
from vm_images import archive, inventory, store
from vm_images.apt import Package
from vm_images.plan import Plan, digest
from vm_images.recipe import Format, Recipe
from vm_images.store_changes import publish, set_name, workplace

__all__ = ["add", "only", "plan"]

DEBIAN = System("debian", ("bookworm", "12"))


def plan(name: str = "mine", *, memory_mib: int = 128, system: System = DEBIAN) -> Plan:
    """What an image is made of; another one for other memory."""
    recipe = Recipe(
        name=name,
        description="",
        kernel="linux-image-1.0",
        modules=("virtio_mmio",),
        packages=("python3",),
        format=Format.EROFS,
        memory_mib=memory_mib,
        zygote="python",
        warm_up="true",
    )
    packages = (Package("libc6", "2.36-9"), Package("python3", "3.11.2-1+b1"))
    kernel = Package("linux-image-1.0", "1")
    return Plan(recipe, "x86_64", kernel, packages, None, "agent", b"zygote", system=system)


def add(folder: Path, name: str = "mine", *, memory_mib: int = 128, system: System = DEBIAN) -> str:
    """Publish an image as a build does; its key."""
    made = plan(name, memory_mib=memory_mib, system=system)
    with workplace(folder, made.key) as place:
        parts: dict[str, dict[str, Any]] = {}
        for part in ("vmlinux", "initrd", "rootfs.erofs"):
            content = f"{part} of {memory_mib}".encode() * 100
            (place / part).write_bytes(content)
            parts[part] = {"size": len(content), "sha256": digest(content)}
        (place / "image.json").write_bytes(made.manifest(parts))
        publish(place, folder, made.key)
    set_name(folder, name, made.key)
    return made.key


def only(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let a folder be the one store that there is, ours to change."""
    monkeypatch.setattr(store, "stores", lambda: ((str(folder), os.geteuid()),))
    monkeypatch.setattr(inventory, "stores", lambda: ((str(folder), os.geteuid()),))
    for module in (inventory, archive):
        monkeypatch.setattr(module, "own_store", lambda: str(folder))
