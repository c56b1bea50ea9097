"""A recipe and the versions of the moment → everything that an image is made of, and its key. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from backends.frozen import frozen
from backends.guest_etc import ETC_FILES
from backends.virtual_machine import System
from vm_images.apt import Package
from vm_images.interpreters import INTERPRETERS, PRELOADED
from vm_images.recipe import COMMAND_LINE, Format, OwnFile, Recipe
from vm_images.requirements import logical_lines
from vm_images.rootfs import EPOCH
from vm_images.store import SCHEMA_VERSION

__all__ = ["Plan", "digest", "key_of", "told"]

_PACKING = 1
"""Goes up when the same inputs are packed in another way."""


@frozen
class Plan:
    """What an image is made of.

    `kernel`, `busybox` (None without one) and `packages` are exact; `agent` identifies the agent's sources,
    or the program that the recipe brings. `zygote` is the source of the script that waits in the guest,
    `addon` identifies the sources of what is compiled for it, `preloaded` is the source of what it loads for
    those who run cells. `system` is what `packages` make.
    """

    recipe: Recipe
    machine: str
    kernel: Package
    packages: tuple[Package, ...]
    busybox: Package | None
    agent: str
    zygote: bytes = b""
    addon: str = ""
    system: System = System()
    preloaded: bytes = b""

    @property
    def key(self) -> str:
        """The image's identity, known before anything is built."""
        return key_of(self.inputs())

    @property
    def python(self) -> str:
        """The guest's Python, as ``3.11``; "" without one."""
        version = next((package.version for package in self.packages if package.name == "python3"), "")
        return ".".join(version.partition("-")[0].split(".")[:2])

    @property
    def files(self) -> tuple[OwnFile, ...]:
        """Our own files in the root file system, but for what is compiled."""
        name = self.recipe.zygote
        script = (OwnFile(INTERPRETERS[name].script_path, self.zygote),) if name else ()
        preloaded = (OwnFile(PRELOADED, self.preloaded),) if self.preloaded else ()
        return (*script, *preloaded, *self.recipe.files)

    @property
    def rootfs(self) -> str:
        """The name of the root file system's file; "" without one."""
        kind = self.recipe.format
        return "" if kind is Format.NONE else f"rootfs.{kind.value}"

    def inputs(self) -> dict[str, Any]:
        """All that decides what comes out. Nothing here is the host's."""
        recipe = self.recipe
        return {
            "packing": _PACKING,
            "machine": self.machine,
            "commandLine": COMMAND_LINE,
            "format": recipe.format.value,
            "kernel": str(self.kernel),
            "modules": list(recipe.all_modules),
            "packages": [str(package) for package in self.packages],
            "busybox": str(self.busybox or ""),
            "agent": self.agent,
            "zygote": recipe.zygote,
            "addon": self.addon,
            "files": [[file.path, file.mode, digest(file.content)] for file in self.files],
            "etc": digest(json.dumps(dict(ETC_FILES), sort_keys=True).encode()),
            "epoch": EPOCH,
            "requirements": [line for _, line in logical_lines(recipe.requirements)],
            "memoryMib": recipe.memory_mib,
            "warmUp": recipe.warm_up,
            "system": told(self.system),
        }

    def manifest(self, parts: dict[str, dict[str, Any]]) -> bytes:
        """The text of image.json.

        Parameters
        ----------
        parts: file name → ``{"size": bytes, "sha256": hexadecimal}``.
        """
        inputs = self.inputs()
        content = {
            "schemaVersion": SCHEMA_VERSION,
            "key": self.key,
            "commandLine": COMMAND_LINE,
            "format": self.recipe.format.value,
            "memoryMib": self.recipe.memory_mib,
            "zygote": self.recipe.zygote,
            "warmUp": self.recipe.warm_up,
            "parts": parts,
            "inputs": inputs,
        }
        return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def told(system: System) -> dict[str, Any]:
    """As a manifest's inputs have it."""
    return {"distribution": system.distribution, "releases": list(system.releases)}


def key_of(inputs: dict[str, Any]) -> str:
    """SHA-256, in hex, over the canonical text of the inputs."""
    return digest(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
