"""Images of systems that we have no recipe for: what a template of LXC's unpacks, as a container's root.

LXC's template ``download`` fetches it from the image server of Linux Containers, by HTTPS. Such an image has
no kernel and no agent of ours: machines cannot boot it. Like those of recipes it is root's throughout, and
without devices and set-id bits; so it can be exported, and imported on hosts that have no network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.errors import BackendUnavailable, ConfigError, PrepFailed, Problem
from backends.virtual_machine import System
from vm_images.archive import NAME
from vm_images.build import Built, Report
from vm_images.plan import key_of, told
from vm_images.recipe import Format
from vm_images.rootfs import EPOCH, pack, remove_tree
from vm_images.store import MANIFEST, SCHEMA_VERSION, own_store, system_name
from vm_images.store_changes import publish, set_name, workplace
from vm_images.tools import run_tool
from vm_images.tree import fingerprint, finish, tame

__all__ = ["TEMPLATE", "download_image"]

TEMPLATE = "download"
_FOLDERS = ("/usr/share/lxc/templates", "/usr/local/share/lxc/templates")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PACKING = 1
"""Goes up when the same tree is packed in another way."""
_NO_MACHINE: Mapping[str, Any] = {
    "commandLine": "",
    "format": Format.EROFS.value,
    "memoryMib": 256,
    "warmUp": "",
    "zygote": "",
}
"""What a manifest says of the machine; nothing boots this one."""
_DEADLINE_S = 1800
_PREPARE = "mxc-ops prep host --backend lxc --feature build --yes"


def download_image(
    distribution: str, release: str, report: Report, *, template: str = TEMPLATE, name: str = ""
) -> Built:
    """Have a system's root file system in our store, as the template gives it today.

    Parameters
    ----------
    distribution, release: as the template wants them.
    report: see `vm_images.build.Report`.
    template: the name of one that LXC brought along, or a program's path; it is called as lxc-create(1) calls
        it, with ``--dist``, ``--release`` and ``--arch``.
    name: of the image; by default DISTRIBUTION-RELEASE, which is what documents find it by.

    Raises `BackendUnavailable` where the host lacks something, `PrepFailed` when it cannot be fetched,
    `ConfigError` for what is no name, or no system.
    """
    system = System(distribution.lower(), (release.lower(),))
    title = name or system_name(system)
    if os.geteuid() != 0:
        message = "what a template unpacks belongs to many users, which takes root's rights"
        again = f"sudo mxc-ops image download {distribution} {release}"
        raise BackendUnavailable(Problem("download_needs_root", "", message, fix=again))
    if not NAME.fullmatch(title):
        message = f"{title[:80]!r} cannot be an image's name"
        raise ConfigError(
            Problem("image_name", "--name", message, expected=f"text that matches {NAME.pattern}")
        )
    program, store = _program(template), Path(own_store())
    with workplace(store) as scratch:
        report(f"fetching {system} by LXC's template {template}")
        tree = _unpacked(program, (distribution, release), title, scratch)
        report(f"packing the root file system as {Format.EROFS.value}")
        tame(tree)
        for folder, mode in finish(tree, ()).items():
            folder.chmod(mode)
        inputs = _inputs(system, template, fingerprint(tree))
        key = key_of(inputs)
        with workplace(store, key) as place:
            rootfs = place / f"rootfs.{Format.EROFS.value}"
            pack(tree, Format.EROFS, rootfs, key)
            (place / MANIFEST).write_text(_manifest(key, inputs, rootfs))
            remove_tree(tree)
            publish(place, store, key)
            set_name(store, title, key)
    return Built(title, key, str(store), fresh=True)


def _program(template: str) -> str:
    if "/" in template:
        found = template if os.access(template, os.X_OK) else ""
    else:
        places = [f"{folder}/lxc-{template}" for folder in _FOLDERS]
        found = next((path for path in places if os.access(path, os.X_OK)), "")
    if not found:
        message = f"LXC has no template {template!r} here"
        raise BackendUnavailable(Problem("no_template", "--template", message, fix=_PREPARE))
    return os.path.abspath(found)  # noqa: PTH100 - it is run from another directory


def _unpacked(program: str, wanted: tuple[str, str], title: str, scratch: Path) -> Path:
    """What the template makes, with a cache and a config of its own that nobody needs afterwards."""
    container, rootfs = scratch / "container", scratch / "container/rootfs"
    rootfs.mkdir(parents=True)
    (container / "config").touch()
    architecture = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    words = ["--name", title, "--path", container, "--rootfs", rootfs]
    words += ["--dist", wanted[0], "--release", wanted[1], "--arch", architecture]
    try:
        run_tool(
            [program, *words],
            deadline_s=_DEADLINE_S,
            cwd=scratch,
            environment={"LXC_CACHE_PATH": str(scratch / "cache"), "TMPDIR": str(scratch)},
        )
    except PrepFailed as error:
        raise _not_fetched(wanted, title, error) from error
    if not (rootfs / "bin/sh").is_symlink() and not (rootfs / "bin/sh").exists():
        message = f"what the template unpacked for {' '.join(wanted)} has no /bin/sh"
        raise ConfigError(Problem("no_root", "", message, expected="the root file system of a system"))
    return rootfs


def _not_fetched(wanted: tuple[str, str], title: str, error: PrepFailed) -> PrepFailed:
    message = (
        f"{' '.join(wanted)} could not be fetched: {error.problems[0].message}."
        " It takes a network, to the image server of Linux Containers, which has the names of what there is"
    )
    fix = (
        f"on a host with a network: mxc-ops image download {' '.join(wanted)} --name {title}"
        f" && mxc-ops image export {title} {title}.image; then here: mxc-ops image import {title}.image"
    )
    return PrepFailed(Problem("not_fetched", "", message, fix=fix), retryable=True)


def _inputs(system: System, template: str, tree: str) -> dict[str, Any]:
    return {
        **_NO_MACHINE,
        "packing": _PACKING,
        "machine": os.uname().machine,
        "template": template,
        "tree": tree,
        "epoch": EPOCH,
        "system": told(system),
    }


def _manifest(key: str, inputs: dict[str, Any], rootfs: Path) -> str:
    with rootfs.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    content = {
        "schemaVersion": SCHEMA_VERSION,
        "key": key,
        **_NO_MACHINE,
        "parts": {rootfs.name: {"size": rootfs.stat().st_size, "sha256": digest}},
        "inputs": inputs,
    }
    return json.dumps(content, indent=1, sort_keys=True) + "\n"
